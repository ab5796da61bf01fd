//! Whether the server takes our walsender for a synchronous standby: then every commit of the auth store waits until
//! users-sync has confirmed it. The role sees no `sync_state`, so the setting decides. Pure.

use crate::pg::{quote_ident, quote_literal};

/// What `synchronous_standby_names` says (src/backend/replication/syncrep_gram.y).
#[derive(Clone, Debug, PartialEq, Eq)]
struct StandbyNames {
    /// `ANY`: any of the standbys. Otherwise the first ones of the list.
    any: bool,
    /// The number of standbys that have to confirm a commit.
    count: usize,
    names: Vec<String>,
}

/// The name that stands for every standby, quoted or not.
const EVERY: &str = "*";

/// The facts from the server that holds the slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SynchronousFacts {
    /// `synchronous_standby_names`.
    pub(crate) setting: String,
    /// Our `application_name` as the server shows it.
    pub(crate) application_name: String,
    /// The names of the connected physical standbys.
    pub(crate) standbys: Vec<String>,
}

/// Our walsender counts as a synchronous standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountsAsStandby {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl SynchronousFacts {
    /// How the server takes our walsender for a synchronous standby; `None` if it does not.
    pub(crate) fn conflict(&self) -> Option<CountsAsStandby> {
        let names = StandbyNames::parse(&self.setting)?;
        if !names.names.iter().any(|name| self.is_ours(name)) {
            return None;
        }
        let (setting, ours) = (quote_literal(&self.setting), &self.application_name);
        Some(CountsAsStandby {
            what: format!(
                "synchronous_standby_names = {setting} makes users-sync ({ours}) a synchronous standby: \
                 every commit of the auth store would wait for it"
            ),
            remedy: self.remedy(&names),
        })
    }

    fn is_ours(&self, name: &str) -> bool {
        name == EVERY || name.eq_ignore_ascii_case(&self.application_name)
    }

    fn remedy(&self, names: &StandbyNames) -> String {
        let has_every = names.names.iter().any(|name| name == EVERY);
        let mut left: Vec<&str> = names.names.iter().map(String::as_str).filter(|name| !self.is_ours(name)).collect();
        if has_every {
            let connected = self.standbys.iter().map(String::as_str).filter(|name| !self.is_ours(name));
            let new: Vec<_> = connected.filter(|name| !left.iter().any(|old| old.eq_ignore_ascii_case(name))).collect();
            left.extend(new);
        }
        let listed = match left.len() {
            0 => String::new(),
            count => {
                let left: Vec<_> = left.iter().map(|name| quote_ident(name)).collect();
                let method = if names.any { "ANY" } else { "FIRST" };
                format!("{method} {} ({})", names.count.clamp(1, count), left.join(", "))
            }
        };
        let set = format!(
            "ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();",
            quote_literal(&listed)
        );
        match (has_every, left.is_empty()) {
            (true, false) => format!("{set} (the connected standbys by name; check that none is missing)"),
            (true, true) => format!("{set} (no standby is connected; list them by name once there are some)"),
            (false, _) => {
                let other = self.unlisted_name(names);
                format!("add application_name={other} to source.url, or: {set}")
            }
        }
    }

    /// A name that the setting does not have.
    fn unlisted_name(&self, names: &StandbyNames) -> String {
        let candidates =
            std::iter::once("users-sync-cdc".to_owned()).chain((2..).map(|n| format!("users-sync-cdc-{n}")));
        let is_free = |name: &String| !names.names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        candidates.into_iter().find(is_free).unwrap_or_default()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A name that is not quoted; numbers and keywords can be names, too.
    Word(String),
    Quoted(String),
    Comma,
    Open,
    Close,
}

impl StandbyNames {
    /// `None` without names. The server has checked the syntax, so what does not fit is left out.
    fn parse(setting: &str) -> Option<StandbyNames> {
        let tokens = tokens(setting);
        let open = tokens.iter().position(|token| *token == Token::Open);
        let (before, listed) = tokens.split_at(open.unwrap_or(0));
        let words = before.iter().filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None });
        let mut parsed = StandbyNames { any: false, count: 1, names: Vec::new() };
        for word in words {
            parsed.any |= word.eq_ignore_ascii_case("any");
            parsed.count = word.parse().unwrap_or(parsed.count);
        }
        parsed.names.extend(listed.iter().filter_map(|token| match token {
            Token::Word(name) | Token::Quoted(name) => Some(name.clone()),
            Token::Comma | Token::Open | Token::Close => None,
        }));
        (!parsed.names.is_empty()).then_some(parsed)
    }
}

/// The scanner of the setting (src/backend/replication/syncrep_scanner.l).
fn tokens(setting: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = setting.chars().peekable();
    while let Some(first) = rest.next() {
        match first {
            ',' => tokens.push(Token::Comma),
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '"' => {
                let mut name = String::new();
                while let Some(c) = rest.next() {
                    // A doubled quote stands for one.
                    if c == '"' && rest.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                tokens.push(Token::Quoted(name));
            }
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {}
            '*' => tokens.push(Token::Word(EVERY.to_owned())),
            first => {
                let mut word = String::from(first);
                let continues = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii();
                while let Some(c) = rest.next_if(continues) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(setting: &str, application_name: &str, standbys: &[&str]) -> SynchronousFacts {
        SynchronousFacts {
            setting: setting.into(),
            application_name: application_name.into(),
            standbys: standbys.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_setting_that_matches_our_name_counts_us_as_a_standby() {
        for (setting, name, expected) in [
            ("", "users-sync", false),
            ("  ", "users-sync", false),
            ("*", "users-sync", true),
            ("\"*\"", "users-sync", true),
            ("s1, *", "users-sync", true),
            ("s1,s2", "users-sync", false),
            ("s1, \"users-sync\"", "users-sync", true),
            ("\"USERS-sync\"", "users-sync", true),
            ("Users_Sync", "users_sync", true),
            ("users_sync2", "users_sync", false),
            ("FIRST 1 (s1, s2)", "first", false),
            ("FIRST 2 (s1, users_sync)", "users_sync", true),
            ("first 1(*)", "x", true),
            ("ANY 1 (s1, \"a\"\"b\")", "a\"b", true),
            ("any 2 ( s1 , s2 )", "any", false),
            ("2 (s1, cdc)", "CDC", true),
            ("2 (s1, s2)", "2", false),
            ("3", "3", true),
            ("\"s1, users-sync\"", "users-sync", false),
            ("größe", "größe", true),
        ] {
            assert_eq!(facts(setting, name, &[]).conflict().is_some(), expected, "{setting} and {name}");
        }
    }

    #[test]
    fn the_remedy_keeps_the_other_standbys() {
        let check = |setting, standbys: &[&str], expected: &str| {
            let remedy = facts(setting, "cdc", standbys).conflict().unwrap().remedy;
            assert!(remedy.contains(expected), "{setting}: {remedy}");
        };
        check("*", &["walreceiver"], "names = 'FIRST 1 (\"walreceiver\")'; SELECT pg_reload_conf(); (");
        check("ANY 3 (*)", &["a", "b", "CDC"], "names = 'ANY 2 (\"a\", \"b\")';");
        check("FIRST 2 (s1, *)", &["S1", "o'b"], "names = 'FIRST 2 (\"s1\", \"o''b\")';");
        check("*", &[], "names = '';");
        check("s1, cdc", &["s2"], "add application_name=users-sync-cdc to source.url, or: ALTER SYSTEM");
        check("s1, cdc", &["s2"], "names = 'FIRST 1 (\"s1\")';");
        check("cdc, \"users-sync-cdc\"", &[], "application_name=users-sync-cdc-2 ");
    }
}
