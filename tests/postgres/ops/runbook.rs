//! The runbook covers every text that asks for a person: logged errors and warnings, findings, reasons and remedies.
//! The texts are extracted from the source, so a new text fails here until the runbook has it.

use super::read;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::Path;

/// The files with user-facing texts: findings, reasons and remedies.
const TEXTS: [&str; 11] = [
    "src/apply/assessment.rs",
    "src/check/finding.rs",
    "src/check/kafka.rs",
    "src/check/mod.rs",
    "src/check/source.rs",
    "src/check/state.rs",
    "src/check/target.rs",
    "src/model/reason.rs",
    "src/replicator/error.rs",
    "src/replicator/failure_policy.rs",
    "src/replicator/tenant/outcome.rs",
];
const KAFKA: &str = "src/tee/kafka/failure.rs";

/// The tokens of a file before its tests.
fn tokens(path: &str) -> TokenStream {
    let text = read(path);
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The string literals in the tokens, without doc comments.
fn literals(tokens: TokenStream) -> Vec<String> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Group(group) if is_doc(&group) => Vec::new(),
            TokenTree::Group(group) => literals(group.stream()),
            TokenTree::Literal(literal) => text_of(&literal.to_string()).into_iter().collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket && first.is_some_and(|first| first.to_string() == "doc")
}

/// The value of a plain string literal.
fn text_of(literal: &str) -> Option<String> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut rest = inside.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next()? {
            'n' => text.push('\n'),
            '\n' => while rest.next_if(|c| c.is_whitespace()).is_some() {},
            c => text.push(c),
        }
    }
    Some(text)
}

/// The message of each `tracing::error!` and `tracing::warn!`: its longest literal.
fn logged(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let words: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let calls = words.windows(5).zip(tokens.iter().skip(5)).filter(|(before, _)| {
        let [tracing, _, _, level, bang] = before else { return false };
        tracing == "tracing" && bang == "!" && ["error", "warn"].contains(&&**level)
    });
    let here = calls.filter_map(|(_, token)| match token {
        TokenTree::Group(group) => literals(group.stream()).into_iter().max_by_key(String::len),
        _ => None,
    });
    let here: Vec<String> = here.collect();
    let inside = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => logged(group.stream()),
        _ => Vec::new(),
    });
    here.into_iter().chain(inside.collect::<Vec<_>>()).collect()
}

/// The text with placeholders replaced by `…` and without formatting.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, after)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push('…');
        rest = after;
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split_whitespace().collect();
    words.join(" ").replace('`', "")
}

/// A text of three or more words, without the punctuation that joins it to others.
fn sentence(text: &str) -> Option<String> {
    let sentence = plain(text);
    let sentence = sentence.trim_matches(|c: char| "…;:,".contains(c) || c.is_whitespace());
    let words = sentence.split(' ').filter(|word| word.chars().any(char::is_alphabetic)).count();
    (words >= 3).then(|| sentence.to_owned())
}

fn sources(under: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_error_finding_and_remedy_is_in_the_runbook() {
    let runbook = plain(&read("docs/RUNBOOK.md").replace("\\|", "|"));
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let lines = files.iter().flat_map(|path| logged(tokens(path)).into_iter().map(move |text| (path.clone(), text)));
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() > 30, "{lines:?}");
    let texts = TEXTS.into_iter().chain(cfg!(feature = "kafka").then_some(KAFKA));
    let texts = texts.flat_map(|path| {
        let texts = literals(tokens(path));
        assert!(!texts.is_empty(), "{path} has no text");
        texts.into_iter().map(move |text| (path.to_owned(), text))
    });
    // A log message has a table row that begins with it.
    let lines = lines.into_iter().map(|(path, text)| (path, plain(&text)));
    let lines = lines.filter(|(_, text)| text.chars().any(char::is_alphabetic));
    let lines = lines.map(|(path, text)| (path, format!("| {text} |")));
    let missing: Vec<_> = lines
        .chain(texts.filter_map(|(path, text)| Some((path, sentence(&text)?))))
        .filter(|(_, text)| !runbook.contains(text.as_str()))
        .map(|(path, text)| format!("{path}: {text}"))
        .collect();
    assert!(missing.is_empty(), "docs/RUNBOOK.md does not say what to do about\n{}", missing.join("\n"));
}

#[test]
fn texts_are_extracted_from_source_code() {
    let code = r#"
        /// A doc comment, which does not count.
        fn f() { if x { tracing::warn!(%a, slot = "s", "it is \
            {what} now"); } tracing::info!("not this"); g("one \"two\" three {}", 'c') }"#;
    let tokens: TokenStream = code.parse().unwrap();
    assert_eq!(logged(tokens.clone()), ["it is {what} now"]);
    assert_eq!(plain("it is {what} now"), "it is … now");
    let all = literals(tokens);
    assert_eq!(all.iter().filter_map(|text| sentence(text)).collect::<Vec<_>>(), ["it is … now", "one \"two\" three"]);
}
