# Whether what deaths.sh has a service write is all in the lines of its log: each stream counts from 1, a line at a time,
# and every line is whole, but for the last word of each, in which the service was killed.
{ words++ }
$3 != "F" { torn = "torn: " $0; words_then = words }
$4 != "o" && $4 != "e" { next }
$5 != ++count[$4] || ($4 == "o") != ($2 == "stdout") {
    if (!wrong) { wrong = "expected " count[$4] ": " $0; words_then = words }
}
END {
    if ((wrong || torn) && words_then < words - 1) { print torn wrong; exit 1 }
    print count["o"] " and " count["e"] " lines"
    exit count["o"] < 1000 || count["e"] < 1000
}
