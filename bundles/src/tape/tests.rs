//! Archives written by the `tar` crate and by hand, read back.

use proptest::prelude::*;

use super::*;

fn read_all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Fault> {
    let mut tape = Tape::new(archive);
    let mut entries = Vec::new();
    while let Some(entry) = tape.next()? {
        let mut data = Vec::new();
        loop {
            let part = tape.data()?;
            if part.is_empty() {
                break;
            }
            let count = part.len();
            data.extend_from_slice(part);
            tape.consume(count);
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn header(kind: u8, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(42);
    header.set_gid(43);
    header.set_mtime(1_700_000_000);
    header
}

fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: u8, data: &[u8]) {
    builder.append_data(&mut header(kind, data.len() as u64), name, data).unwrap();
}

/// A pax record with its length, which counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

fn with_records(records: &[(&str, &[u8])], name: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let extension: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    append(&mut builder, "pax", b'x', &extension);
    append(&mut builder, name, b'0', data);
    builder.into_inner().unwrap()
}

#[test]
fn kinds_and_fields() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "folder/", b'5', b"");
    append(&mut builder, "folder/file", b'0', b"content");
    builder.append_link(&mut header(b'2', 0), "link", "folder/file").unwrap();
    builder.append_link(&mut header(b'1', 0), "hard", "folder/file").unwrap();
    let mut device = header(b'3', 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    builder.append_data(&mut device, "null", &b""[..]).unwrap();
    append(&mut builder, "pipe", b'6', b"");
    let long = "d/".repeat(200) + "name";
    append(&mut builder, &long, b'0', b"x");
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();

    let kinds: Vec<_> = entries.iter().map(|(entry, _)| entry.kind.clone()).collect();
    let target = b"folder/file".to_vec();
    assert_eq!(
        kinds,
        [
            Kind::Folder,
            Kind::File { real_size: 7, sparse: None },
            Kind::Symlink { target: target.clone() },
            Kind::HardLink { target },
            Kind::CharacterDevice { major: 1, minor: 3 },
            Kind::Fifo,
            Kind::File { real_size: 1, sparse: None },
        ]
    );
    let (file, data) = &entries[1];
    assert_eq!((file.mode, file.uid, file.gid), (0o4755, 42, 43));
    assert_eq!((file.modified_s, file.modified_ns), (1_700_000_000, 0));
    assert_eq!((file.name.as_slice(), data.as_slice()), (&b"folder/file"[..], &b"content"[..]));
    assert_eq!(file.data_at, 3 * 512 - 512);
    assert_eq!(entries[6].0.name, long.as_bytes());
}

#[test]
fn pax_records_win_over_the_header() {
    let capability = b"\x01\0\0\x02\0\x0a\0\0\n=1 2\n\0";
    let archive = with_records(
        &[
            ("mtime", b"1700000000.25"),
            ("path", b"renamed"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.empty", b""),
            ("comment", b"nothing"),
        ],
        "name",
        b"data",
    );
    let entries = read_all(&archive).unwrap();
    let (entry, data) = &entries[0];
    assert_eq!(
        (entry.name.as_slice(), entry.uid, data.as_slice()),
        (&b"renamed"[..], 3_000_000_000, &b"data"[..])
    );
    assert_eq!((entry.modified_s, entry.modified_ns), (1_700_000_000, 250_000_000));
    let expected = [(b"security.capability".to_vec(), capability.to_vec()), (b"user.empty".to_vec(), vec![])];
    assert_eq!(entry.xattrs, expected);
}

#[test]
fn times_before_1970_and_with_many_digits() {
    for (text, expected) in
        [("-1.25", (-2, 750_000_000)), ("-3", (-3, 0)), ("0.1234567899", (0, 123_456_789)), ("7.", (7, 0))]
    {
        let entries = read_all(&with_records(&[("mtime", text.as_bytes())], "a", b"")).unwrap();
        assert_eq!((entries[0].0.modified_s, entries[0].0.modified_ns), expected, "{text}");
    }
    for text in ["x", "1.2x", "1e5", "--1", "99999999999999999999"] {
        assert!(read_all(&with_records(&[("mtime", text.as_bytes())], "a", b"")).is_err(), "{text}");
    }
}

#[test]
fn global_records_apply_until_they_are_overridden() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "g", b'g', &record("uid", b"7"));
    append(&mut builder, "one", b'0', b"");
    append(&mut builder, "x", b'x', &record("uid", b"8"));
    append(&mut builder, "two", b'0', b"");
    append(&mut builder, "x", b'x', &record("uid", b""));
    append(&mut builder, "three", b'0', b"");
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(entries.iter().map(|(entry, _)| entry.uid).collect::<Vec<_>>(), [7, 8, 42]);
}

#[test]
fn global_records_do_not_grow_for_ever() {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..10 {
        append(&mut builder, "g", b'g', &record("comment", &[b'x'; 40_000]));
        append(&mut builder, &format!("file{number}"), b'0', b"");
    }
    assert_eq!(read_all(builder.get_ref()).unwrap().len(), 10);
    append(&mut builder, "g", b'g', &record("other", &[b'x'; 40_000]));
    assert!(matches!(read_all(&builder.into_inner().unwrap()), Err(Fault::Malformed { .. })));
}

/// All three pax formats, with two parts: "AB" at 1000 and "CD" at 5000, in a file of 6000 bytes.
#[test]
fn sparse_files_of_every_pax_format() {
    let segments = vec![Segment { offset: 1000, bytes: 2 }, Segment { offset: 5000, bytes: 2 }];
    let version_0_0 = with_records(
        &[
            ("GNU.sparse.size", b"6000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"1000"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.offset", b"5000"),
            ("GNU.sparse.numbytes", b"2"),
        ],
        "file",
        b"ABCD",
    );
    let version_0_1 = with_records(
        &[("GNU.sparse.size", b"6000"), ("GNU.sparse.map", b"1000,2,5000,2"), ("GNU.sparse.name", b"file")],
        "GNUSparseFile.1/file",
        b"ABCD",
    );
    let mut data = b"2\n1000\n2\n5000\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"ABCD");
    let version_1_0 = with_records(
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"file"),
            ("GNU.sparse.realsize", b"6000"),
        ],
        "GNUSparseFile.1/file",
        &data,
    );
    for archive in [version_0_0, version_0_1, version_1_0] {
        let entries = read_all(&archive).unwrap();
        let (entry, data) = &entries[0];
        assert_eq!((entry.name.as_slice(), data.as_slice()), (&b"file"[..], &b"ABCD"[..]));
        assert_eq!(entry.kind, Kind::File { real_size: 6000, sparse: Some(segments.clone()) });
    }
}

#[test]
fn sparse_maps_that_lie() {
    for (size, map) in [
        ("6000", "1000,2,1001,2"),
        ("6000", "1000,2,5000,3"),
        ("6000", "1000,2,5999,2"),
        ("6000", "1000,2,5000"),
        ("6000", "1000,4,18446744073709551615,18446744073709551615"),
        ("-1", "1000,2,5000,2"),
        ("6000", ",,"),
    ] {
        let records = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        assert!(
            matches!(read_all(&with_records(&records, "a", b"ABCD")), Err(Fault::Malformed { .. })),
            "{map}"
        );
    }
}

#[test]
fn archives_that_end_early() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "file", b'0', &[1; 1000]);
    let archive = builder.into_inner().unwrap();
    assert_eq!(archive.len(), 512 + 1024 + 1024);
    assert_eq!(read_all(&archive[..512 + 1024]).unwrap().len(), 1);
    // As umoci insert writes them.
    assert_eq!(read_all(&archive[..512 + 1000]).unwrap().len(), 1);
    assert!(read_all(&[]).unwrap().is_empty());
    for length in [1, 511, 513, 1500, 512 + 1023] {
        assert!(matches!(read_all(&archive[..length]), Err(Fault::Ends { .. })), "{length}");
    }
}

#[test]
fn what_makes_no_sense() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "file", b'0', b"");
    let good = builder.into_inner().unwrap();
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "file", b'M', b"");
    let unknown = builder.into_inner().unwrap();
    let text = [b'a'; 1024].to_vec();
    for archive in [flipped, unknown, text] {
        assert!(matches!(read_all(&archive), Err(Fault::Malformed { .. })));
    }
    for records in [&b"5 a=b\n"[..], b"x a=b\n", b"6 a=bc", b"99 a=b\n", b"2 a=b\n", b"6 abc\n"] {
        assert!(Records::parse(records).is_err(), "{records:?}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0_usize..2048, value: u8, length in 0_usize..4096) {
        let mut archive = with_records(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"1,4")], "a", b"ABCD");
        archive[at] = value;
        archive.truncate(length);
        let _ = read_all(&archive);
    }

    #[test]
    fn numbers(value in 0_i64..0o777_7777) {
        prop_assert_eq!(header::number(format!("{value:07o}\0").as_bytes()), Ok(value));
        prop_assert_eq!(header::number(format!("{value:>6o} \0").as_bytes()), Ok(value));
    }

    #[test]
    fn binary_numbers(value: i64) {
        let mut field = [if value < 0 { 0xff } else { 0x80 }; 12];
        field[1..4].fill(if value < 0 { 0xff } else { 0 });
        field[4..].copy_from_slice(&value.to_be_bytes());
        prop_assert_eq!(header::number(&field), Ok(value));
    }
}
