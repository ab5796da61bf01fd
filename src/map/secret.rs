//! Which columns look like secrets by their names. When in doubt a column is withheld: the configuration can allow it,
//! and a hash that has left cannot be taken back. Pure.

/// Parts of a word of the name.
const WORD_PARTS: &[&str] = &[
    "passw",
    "pwd",
    "digest",
    "hash",
    "salt",
    "secret",
    "token",
    "mfa",
    "2fa",
    "recovery",
    "credential",
    "signature",
    "nonce",
];

/// Parts of the name without separators: `api_key`, `apiKey` and `APIKEY` are equal. `passw` is for `pass_word`.
const NAME_PARTS: &[&str] = &["passw", "backupcode", "apikey", "privatekey"];

/// Whether a column of this name is withheld from `raw_json` by default.
///
/// `otp` has to begin or end a word (`totp`, `otpcode`, but not `footprint`), `pin` has to be the last word
/// (`user_pin`, but not `pinned_at` or `spin`).
pub(crate) fn looks_secret(column: &str) -> bool {
    let joined: String = column.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    if NAME_PARTS.iter().any(|needle| joined.contains(needle)) {
        return true;
    }
    let words = words(column);
    words.last().is_some_and(|last| last == "pin")
        || words.iter().any(|word| {
            word.starts_with("otp") || word.ends_with("otp") || WORD_PARTS.iter().any(|needle| word.contains(needle))
        })
}

/// The words of a name in lower case: separated by other characters than letters and digits, and by camelCase. In
/// `OTPCode` the last capital of a run begins the next word.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let after_lower = i > 0 && chars[i - 1].is_lowercase();
        let before_lower = chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        let hump = c.is_uppercase() && (after_lower || (i > 0 && before_lower));
        if hump || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_names_for_secrets_are_recognised() {
        for name in [
            "password",
            "encrypted_password",
            "passwordHash",
            "PASSWD",
            "pass_word",
            "passWord",
            "pwd",
            "userPwd",
            "password_digest",
            "hash",
            "crypted_hash",
            "hashtag_count",
            "salt",
            "password_salt",
            "secret",
            "client_secret",
            "clientSecret",
            "confirmation_token",
            "reauthenticationToken",
            "otp",
            "otp_secret",
            "totp",
            "TOTPKey",
            "otpcode",
            "OTPCode",
            "sms_otp",
            "mfa",
            "mfaEnabled",
            "2fa",
            "user_2fa",
            "2FAKey",
            "recovery_code",
            "account_recovery",
            "recoveryCodes",
            "backup_code",
            "backupCodes",
            "backupcodes",
            "api_key",
            "apiKey",
            "APIKEY",
            "api-key",
            "private_key",
            "privateKeys",
            "credential",
            "credentials",
            "signature",
            "nonce",
            "pin",
            "user_pin",
            "userPin",
            "PIN",
        ] {
            assert!(looks_secret(name), "{name}");
        }
    }

    #[test]
    fn harmless_column_names_are_not_withheld() {
        for name in [
            "",
            "_",
            "id",
            "email",
            "username",
            "shipping_address",
            "shippingAddress",
            "spinning",
            "spin",
            "pinned_at",
            "pin_color",
            "pinColor",
            "opinion",
            "footprint",
            "hotpink",
            "laptop",
            "has_html",
            "hasHandle",
            "step_2_family",
            "farm_family",
            "passport_country",
            "key",
            "public_key",
            "raw_user_meta_data",
            "last_sign_in_at",
            "ünïcödé",
        ] {
            assert!(!looks_secret(name), "{name}");
        }
    }
}
