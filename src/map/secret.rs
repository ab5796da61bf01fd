//! Which columns look like secrets by their names. When in doubt a column is withheld: the configuration can allow it,
//! and a hash that has left cannot be taken back. Pure.

/// Parts of a word of the name.
const WORD_PARTS: &[&str] = &[
    "passw",
    "pwd",
    "pswd",
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
    "kdf",
    "verifier",
    "hmac",
    "jwt",
    "cookie",
    "sessid",
    "cvv",
    "mnemonic",
];

/// Beginnings of a word.
const WORD_STARTS: &[&str] = &["otp", "pass", "pw", "argon", "session", "ssn"];

/// Ends of a word.
const WORD_ENDS: &[&str] = &["otp", "pw", "ssn"];

/// Whole words.
const WORDS: &[&str] = &["sid", "seed", "seeds", "cvc", "bearer", "pepper"];

/// Parts of the name without separators: `api_key`, `apiKey` and `APIKEY` are equal. `passw` is for `pass_word`. The
/// others are for names in one word: as several words, their last one decides.
const NAME_PARTS: &[&str] = &[
    "passw",
    "apikey",
    "privatekey",
    "accesskey",
    "authkey",
    "encryptionkey",
    "masterkey",
    "sharedkey",
    "signingkey",
    "sshkey",
    "backupcode",
    "accesscode",
    "activationcode",
    "authcode",
    "confirmationcode",
    "invitecode",
    "logincode",
    "resetcode",
    "securitycode",
    "smscode",
    "verificationcode",
    "magiclink",
    "resetlink",
    "securityanswer",
];

/// Words that begin like a secret and are none.
const HARMLESS_WORDS: &[&str] = &[
    "assn",
    "passport",
    "passports",
    "passenger",
    "passengers",
    "passed",
    "passing",
    "passion",
    "passions",
    "passive",
    "passage",
    "passes",
];

/// A `..._key` after one of these is no secret.
const HARMLESS_KEYS: &[&str] = &["public", "primary", "foreign", "sort"];

/// A `..._code` after one of these classifies, or is meant to be passed on.
const HARMLESS_CODES: &[&str] = &[
    "affiliate",
    "airport",
    "area",
    "bank",
    "branch",
    "calling",
    "campaign",
    "carrier",
    "category",
    "city",
    "class",
    "color",
    "colour",
    "company",
    "cost",
    "country",
    "county",
    "coupon",
    "course",
    "currency",
    "customer",
    "department",
    "dept",
    "dial",
    "dialing",
    "discount",
    "district",
    "employee",
    "error",
    "exit",
    "gender",
    "group",
    "industry",
    "iso",
    "job",
    "lang",
    "language",
    "locale",
    "location",
    "naics",
    "nationality",
    "office",
    "org",
    "organization",
    "partner",
    "phone",
    "plan",
    "post",
    "postal",
    "prefecture",
    "prefix",
    "product",
    "promo",
    "promotion",
    "province",
    "reason",
    "referral",
    "referrer",
    "region",
    "response",
    "role",
    "school",
    "sic",
    "site",
    "state",
    "status",
    "store",
    "student",
    "tax",
    "team",
    "timezone",
    "type",
    "tz",
    "unit",
    "vat",
    "zip",
    "zone",
];

/// Whether a column of this name is withheld from `raw_json` by default.
///
/// `pin`, `key` and `code` count only as the last word (`user_pin`, but not `pinned_at` or `key_id`), the latter two
/// only after another word. A number may follow.
pub(crate) fn looks_secret(column: &str) -> bool {
    let joined: String = column.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    if NAME_PARTS.iter().any(|needle| joined.contains(needle)) {
        return true;
    }
    let words = words(column);
    ends_in_secret(&words) || words.iter().any(|word| is_secret_word(word))
}

fn is_secret_word(word: &str) -> bool {
    if HARMLESS_WORDS.contains(&word) {
        return false;
    }
    let encrypts = word.contains("crypt") && !word.starts_with("crypto");
    encrypts
        || WORDS.contains(&word)
        || WORD_STARTS.iter().any(|start| word.starts_with(start))
        || WORD_ENDS.iter().any(|end| word.ends_with(end))
        || WORD_PARTS.iter().any(|part| word.contains(part))
}

/// Whether the last word that is no number makes the name a secret.
fn ends_in_secret(words: &[String]) -> bool {
    let trimmed = words.iter().map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    let words: Vec<&str> = trimmed.filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        [.., "pin"] => true,
        [.., before, "key" | "keys"] => !HARMLESS_KEYS.contains(before),
        [.., before, "code" | "codes"] => !HARMLESS_CODES.contains(before),
        _ => false,
    }
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

    /// Names of providers and of common schemas.
    const STAY: &[&str] = &[
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
        "pass",
        "user_pass",
        "passphrase",
        "passcode",
        "passkey",
        "passPhrase",
        "pw",
        "user_pw",
        "userPw",
        "pw_algo",
        "pswd",
        "user_pswd",
        "bcrypt",
        "password_bcrypt",
        "scrypt",
        "scryptParams",
        "user_crypt",
        "crypt",
        "encrypted_ssn",
        "argon",
        "argon2",
        "argon2id_params",
        "pbkdf2",
        "pbkdf2_iterations",
        "verifier",
        "srp_verifier",
        "codeVerifier",
        "hmac",
        "request_hmac",
        "jwt",
        "id_jwt",
        "refreshJwt",
        "cookie",
        "session_cookie",
        "cookies",
        "session",
        "session_id",
        "sessionKey",
        "sessions",
        "sid",
        "connect.sid",
        "userSid",
        "access_key",
        "accessKey",
        "encryption_key",
        "signing_key",
        "stripe_key",
        "license_key",
        "sshKeys",
        "master_key_1",
        "reset_code",
        "resetCode",
        "access_code",
        "security_code",
        "verification_code",
        "invite_code",
        "login_codes",
        "auth_code_2",
        "pin_code",
        "seed",
        "wallet_seed",
        "seedPhrase",
        "totp_seed",
        "cvv",
        "card_cvv",
        "cvv2",
        "cvc",
        "ssn",
        "user_ssn",
        "ssn_last4",
        "SSN",
        "api key",
        "Pass Word",
        "Session Id",
        "reset code",
    ];

    const LEAVE: &[&str] = &[
        "id",
        "email",
        "username",
        "name",
        "display_name",
        "first_name",
        "lastName",
        "phone",
        "phone_number",
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
        "country_code",
        "countryCode",
        "postal_code",
        "zip_code",
        "zipCode",
        "language_code",
        "currency_code",
        "area_code",
        "passport_number",
        "passportNo",
        "passport_expires_at",
        "passport",
        "referral_code",
        "referralCode",
        "region_code",
        "state_code",
        "dial_code",
        "phone_country_code",
        "promo_code",
        "coupon_code",
        "status_code",
        "error_code",
        "timezone_code",
        "zipcode",
        "postcode",
        "code",
        "codes",
        "keys",
        "key_id",
        "keyboard_layout",
        "monkey",
        "hockey_team",
        "turkey_visits",
        "primary_key",
        "sort_key",
        "passenger_id",
        "passengerCount",
        "passed_at",
        "passive",
        "passion",
        "compass",
        "bypass_limit",
        "assessment",
        "crypto_balance",
        "description",
        "encoding",
        "side",
        "inside",
        "resident",
        "president_id",
        "sidebar_open",
        "seeded_at",
        "seedling",
        "assn",
        "lesson",
        "company_name",
        "job_title",
        "birthday",
        "gender",
        "avatar_url",
        "picture",
        "locale",
        "timezone",
        "website",
        "bio",
        "plan",
        "role",
        "roles",
        "status",
        "created_at",
        "updated_at",
        "deleted_at",
        "email_verified",
        "is_active",
        "is_admin",
        "department",
        "employee_id",
        "manager_id",
        "city",
        "street",
        "house_number",
        "latitude",
        "newsletter",
        "notification_settings",
        "preferences",
        "metadata",
        "tags",
        "score",
        "credits",
        "balance",
        "invited_by",
        "tenant_id",
        "organization_id",
        "last_login_ip",
        "login_count",
        "iso_country_code",
        "language_codes",
        "",
        "_",
        "Country Code",
        "Zip Code",
    ];

    #[test]
    fn names_of_secrets_stay() {
        assert!(STAY.len() >= 100);
        let leaving: Vec<_> = STAY.iter().filter(|name| !looks_secret(name)).collect();
        assert!(leaving.is_empty(), "{leaving:?}");
    }

    #[test]
    fn harmless_names_leave() {
        assert!(LEAVE.len() >= 100);
        let staying: Vec<_> = LEAVE.iter().filter(|name| looks_secret(name)).collect();
        assert!(staying.is_empty(), "{staying:?}");
    }
}
