//! Hides what must not be shown of configuration: values whose names look secret, passwords in URLs, private keys.
//! It knows forms, not services, and errs on the side of hiding: a value runs to the end of its line and over what is
//! indented below it.

/// What is shown in a secret's place.
pub(crate) const HIDDEN: &str = "****";

/// A name with one of these in it names a secret.
const WORDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "private",
    "cookie",
    "authorization",
    "bearer",
];
/// A name with one of these as one of its parts does, too.
const PARTS: [&str; 6] = ["pass", "pw", "pwd", "psk", "dsn", "salt"];
/// A name that ends so is about a secret, not of one.
const ABOUT: [&str; 15] = [
    "file",
    "path",
    "dir",
    "repository",
    "expiration",
    "timeout",
    "ttl",
    "length",
    "rounds",
    "algorithm",
    "algorithms",
    "provider",
    "driver",
    "interval",
    "size",
];

/// Whether the value of this name is to be hidden.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split(|char: char| !char.is_ascii_alphanumeric()).collect();
    if parts.last().is_some_and(|last| ABOUT.contains(last)) || parts.first() == Some(&"max") {
        return false;
    }
    // "keystone" begins with a key and is none.
    let is_part =
        |part: &&str| PARTS.contains(part) || ["key", "keys", "pass"].iter().any(|end| part.ends_with(end));
    WORDS.iter().any(|word| name.contains(word)) || parts.iter().any(is_part)
}

/// The lines of a text as they may be shown: as many as there are.
pub(crate) fn hide(text: &str) -> Vec<String> {
    let mut shown = Vec::new();
    // The indentation of a name whose value was hidden: what is indented below it belongs to it.
    let mut below: Option<usize> = None;
    // A quote that a hidden value has opened, or the shell's word that the line goes on.
    let mut open: Option<char> = None;
    let mut in_key = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let begins_key = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if in_key || begins_key {
            in_key = !line.contains("-----END");
            shown.push(HIDDEN.to_owned());
            continue;
        }
        if let Some(quote) = open {
            let ends = if quote == '\\' { !line.ends_with('\\') } else { line.contains(quote) };
            open = if ends { None } else { open };
            shown.push(HIDDEN.to_owned());
            continue;
        }
        let trimmed = line.trim_start();
        let of_list = trimmed.starts_with("- ") && below == Some(indent) && name_end(trimmed).is_none();
        if !trimmed.is_empty() && (below.is_some_and(|above| indent > above) || of_list) {
            shown.push(format!("{}{HIDDEN}", &line[..indent]));
            continue;
        }
        if !trimmed.is_empty() {
            below = None;
        }
        match name_end(line) {
            Some(at) => {
                let value = line[at..].trim();
                below = Some(indent);
                open = opened(value);
                let gap = &line[at..line.len() - line[at..].trim_start().len()];
                shown.push(if value.is_empty() {
                    line.to_owned()
                } else {
                    format!("{}{gap}{HIDDEN}", &line[..at])
                });
            }
            None => shown.push(hide_in_url(line)),
        }
    }
    shown
}

/// Hides what is secret in one value, such as an argument.
pub(crate) fn hide_value(name: &str, value: &str) -> String {
    if is_secret(name) { HIDDEN.to_owned() } else { hide(value).join("\n") }
}

/// Where the value of the first secret name in a line begins.
fn name_end(line: &str) -> Option<usize> {
    let is_name = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
    let mut begin = None;
    let is_comment = ["#", ";", "//", "["].iter().any(|sign| line.trim_start().starts_with(sign));
    for (at, char) in line.char_indices().chain([(line.len(), ' ')]) {
        if is_name(char) {
            begin = begin.or(Some(at));
            continue;
        }
        let Some(from) = begin.take() else { continue };
        if !is_secret(line[from..at].trim_matches(['-', '.'])) {
            continue;
        }
        let rest = &line[at..];
        let after = rest.trim_start_matches(['"', '\'', ' ', '\t', '}']);
        // `name = value`, `"name": value`, `name=>value`, `{name, value}`, `<name>value`
        if let Some(sign) = after.chars().next().filter(|sign| "=:,>".contains(*sign)) {
            let begin = at + (rest.len() - after.len()) + sign.len_utf8();
            return Some(begin + usize::from(sign == '=' && line[begin..].starts_with('>')));
        }
        // `requirepass value`, `user admin insecure-password value`; but not a word in another option's value.
        let in_value = line[..from].contains(['=', ':']);
        if !is_comment && !in_value && rest.starts_with([' ', '\t']) && !after.is_empty() {
            return Some(at + 1);
        }
    }
    None
}

/// What a value opens and does not close.
fn opened(value: &str) -> Option<char> {
    if value.ends_with('\\') {
        return Some('\\');
    }
    let quote = value.chars().next().filter(|char| "\"'".contains(*char))?;
    (value.matches(quote).count() % 2 == 1).then_some(quote)
}

/// `mysql://user:****@host`: from the first colon behind the scheme to the last @, since a password may have both.
fn hide_in_url(line: &str) -> String {
    let Some(scheme) = line.find("://") else { return line.to_owned() };
    let begin = scheme + 3;
    let Some(end) = line.rfind('@').filter(|end| *end > begin) else { return line.to_owned() };
    match line[begin..end].find(':') {
        Some(colon) => format!("{}{HIDDEN}{}", &line[..=begin + colon], &line[end..]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_in_any_form() {
        for text in [
            "password = S3CR3T",
            "#admin_token = S3CR3T",
            "memcache_secret_key=a b S3CR3T",
            "connection = mysql+pymysql://keystone:S3CR3T@db/keystone?charset=utf8",
            "transport_url = rabbit://a:S3CR3T@h1:5672,b:S3CR3T@h2:5672/v",
            "connection = mysql://u:a:b@S3CR3T@db",
            "export OS_PASSWORD='S3CR3T'",
            "OS_PASSWORD=\"a\nS3CR3T\"",
            "PASSWORD=a\\\nS3CR3T",
            "{\"user\": \"x\", \"password\": \"S3CR3T\", \"port\": 1}",
            "password:\n  S3CR3T",
            "password: |\n  a\n  S3CR3T",
            "tokens:\n- S3CR3T",
            "db_pass => S3CR3T",
            "{default_pass, <<\"S3CR3T\">>}",
            "<password>S3CR3T</password>",
            "requirepass S3CR3T",
            "  user admin insecure-password S3CR3T",
            "mysql --password=S3CR3T -h db",
            "-----BEGIN RSA PRIVATE KEY-----\nS3CR3T\n-----END RSA PRIVATE KEY-----",
        ] {
            let shown = hide(text);
            assert!(!shown.join("\n").contains("S3CR3T"), "{shown:?}");
            assert_eq!(shown.len(), text.lines().count());
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for text in [
            "[token]\nprovider = fernet",
            "key_repository = /etc/keystone/fernet-keys/",
            "max_active_keys = 3",
            "keystone_url = http://127.0.0.1:5000/v3",
            "connection = sqlite:////var/lib/keystone/keystone.db",
            "# how long a token is valid",
            "pipeline = cors authtoken keystoneapp",
            "password_hash_rounds = 4",
        ] {
            assert_eq!(hide(text).join("\n"), text);
        }
        assert_eq!(hide("a = b://u:p@h/x"), ["a = b://u:****@h/x"]);
    }
}
