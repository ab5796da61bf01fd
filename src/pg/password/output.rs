//! The output of a password command: one line, or a JSON object with the time at which the password expires. Pure.

use super::super::Secret;
use serde_json::Value;
use std::time::Duration;

/// How long a password without a time is used.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A password is replaced this long before it expires: the server's clock may differ.
const MARGIN: Duration = Duration::from_secs(30);
/// Keys of a JSON object that contain the password: our own, and those of the Azure CLI and of OAuth.
const PASSWORDS: [&str; 4] = ["password", "token", "accessToken", "access_token"];
/// Keys with the time of expiry, in seconds since 1970.
const EXPIRIES: [&str; 2] = ["expires_at", "expires_on"];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) password: Secret,
    /// How long it can be used.
    pub(super) lifetime: Duration,
}

/// `now` is the time since 1970.
///
/// # Errors
/// A message without any part of the output.
pub(super) fn parse(output: &[u8], now: Duration) -> Result<Output, &'static str> {
    let text = std::str::from_utf8(output).map_err(|_| "its output is not UTF-8")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let (password, lifetime) = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => {
            let password = PASSWORDS.iter().find_map(|key| object.get(*key)?.as_str());
            let password = password.ok_or("its output is a JSON object without the text password")?;
            let expiry = EXPIRIES.iter().find_map(|key| seconds(object.get(*key)?));
            let until = expiry.map(|seconds| Duration::from_secs(seconds).saturating_sub(now).saturating_sub(MARGIN));
            (password.to_owned(), until.unwrap_or(DEFAULT_LIFETIME))
        }
        // A number is a password, too.
        _ => (text.to_owned(), DEFAULT_LIFETIME),
    };
    if password.is_empty() {
        return Err("it prints no password");
    }
    if password.chars().any(char::is_control) {
        return Err("it prints more than one line");
    }
    Ok(Output { password: Secret(password), lifetime })
}

fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_and_its_lifetime_are_read() {
        let now = Duration::from_secs(1_000);
        let read =
            |text: &str| parse(text.as_bytes(), now).map(|output| (output.password.0, output.lifetime.as_secs()));
        let output = |password: &str, lifetime| Ok((password.to_owned(), lifetime));
        assert_eq!(read("hunter2\n"), output("hunter2", 60));
        assert_eq!(read("host:5432/?Action=connect&X=1\r\n"), output("host:5432/?Action=connect&X=1", 60));
        assert_eq!(read("12345"), output("12345", 60));
        assert_eq!(read("\"quoted\""), output("\"quoted\"", 60));
        assert_eq!(read("{\"password\": \"p\"}\n"), output("p", 60));
        assert_eq!(read("{\n \"accessToken\": \"t\",\n \"expires_on\": 1100\n}\n"), output("t", 70));
        assert_eq!(read("{\"token\": \"t\", \"expires_at\": \"1010\"}"), output("t", 0));
        assert_eq!(
            read("{\"token\": \"t\", \"expires_at\": 18446744073709551615}").map(|(text, _)| text),
            Ok("t".to_owned())
        );
        for (text, error) in [
            ("", "no password"),
            ("\n", "no password"),
            ("hunter2\nhunter2\n", "more than one line"),
            ("{\"secret\": \"hunter2\"}", "without the text password"),
            ("{\"password\": 7}", "without the text password"),
        ] {
            let seen = read(text).unwrap_err();
            assert!(seen.contains(error) && !seen.contains("hunter2"), "{text}: {seen}");
        }
        assert_eq!(parse(b"\xff", now), Err("its output is not UTF-8"));
    }
}
