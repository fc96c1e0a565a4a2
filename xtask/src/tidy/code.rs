//! Rust source with its comments and literals blanked out, so that a rule about code is
//! not tripped by prose. Lines keep their numbers.

/// What the scanner is inside of.
enum Inside {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

/// The code of `source`: every character of a comment or literal is a blank, line ends
/// stay.
pub(super) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let (now, taken) = match inside {
            Inside::Code => in_code(&chars, at),
            Inside::LineComment if c == '\n' => (Inside::Code, 1),
            Inside::LineComment => (Inside::LineComment, 1),
            Inside::BlockComment { depth } => match (c, next) {
                ('/', Some('*')) => (Inside::BlockComment { depth: depth + 1 }, 2),
                ('*', Some('/')) if depth == 1 => (Inside::Code, 2),
                ('*', Some('/')) => (Inside::BlockComment { depth: depth - 1 }, 2),
                _ => (Inside::BlockComment { depth }, 1),
            },
            Inside::Text => match c {
                '\\' => (Inside::Text, 2),
                '"' => (Inside::Code, 1),
                _ => (Inside::Text, 1),
            },
            Inside::RawText { hashes } => {
                if c == '"' && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#')) {
                    (Inside::Code, 1 + hashes)
                } else {
                    (Inside::RawText { hashes }, 1)
                }
            }
        };
        let was_code = matches!(inside, Inside::Code);
        let stays_code = matches!(now, Inside::Code) && taken == 1;
        for &c in chars.iter().skip(at).take(taken) {
            out.push(if c == '\n' || (was_code && stays_code) {
                c
            } else {
                ' '
            });
        }
        inside = now;
        at += taken;
    }
    out
}

/// What begins here, and how many characters it takes to say so.
fn in_code(chars: &[char], at: usize) -> (Inside, usize) {
    let c = chars.get(at).copied();
    let next = chars.get(at + 1).copied();
    match (c, next) {
        (Some('/'), Some('/')) => (Inside::LineComment, 2),
        (Some('/'), Some('*')) => (Inside::BlockComment { depth: 1 }, 2),
        (Some('"'), _) => (Inside::Text, 1),
        (Some('r'), Some('"' | '#')) if !follows_word(chars, at) => raw_text(chars, at),
        // A character literal; a lifetime has no quote two or more places on.
        (Some('\''), Some('\\')) => {
            let end = (at + 3..at + 12).find(|&end| chars.get(end) == Some(&'\''));
            (Inside::Code, end.map_or(1, |end| end - at + 1))
        }
        (Some('\''), Some(_)) if chars.get(at + 2) == Some(&'\'') => (Inside::Code, 3),
        _ => (Inside::Code, 1),
    }
}

fn raw_text(chars: &[char], at: usize) -> (Inside, usize) {
    let hashes = chars.iter().skip(at + 1).take_while(|&&c| c == '#').count();
    match chars.get(at + 1 + hashes) {
        Some('"') => (Inside::RawText { hashes }, 2 + hashes),
        // A raw identifier, r#type.
        _ => (Inside::Code, 1),
    }
}

/// Whether the character before is part of a word (`br"` is a literal, `for"` is not).
fn follows_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| chars.get(before));
    before.is_some_and(|&c| c != 'b' && (c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_blanked_and_code_stays() {
        let source =
            "let a = \"unsafe\"; // unsafe\nlet b = 1; /* unsafe /* nested */ still */ let c;";
        let code = code_only(source);
        assert!(!code.contains("unsafe"));
        assert!(!code.contains("still"));
        assert!(code.contains("let a ="));
        assert!(code.contains("let c;"));
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn a_lifetime_and_a_character_do_not_open_a_text() {
        let code = code_only("fn f<'a>(x: &'a str) { g('\"', '\\'', '\\u{1F600}'); h() }");
        assert!(code.contains("fn f<'a>(x: &'a str)"));
        assert!(code.contains("h()"));
        assert!(!code.contains('"'));
    }

    #[test]
    fn raw_texts_end_where_their_hashes_say() {
        let code = code_only("let a = r#\"x \" unsafe\"#; let b = br\"unsafe\"; let r#type = 1;");
        assert!(!code.contains("unsafe"));
        assert!(code.contains("let b ="));
        assert!(code.contains("r#type = 1;"));
    }

    #[test]
    fn an_escaped_quote_does_not_end_a_text() {
        let code = code_only("let a = \"x \\\" unsafe\"; done()");
        assert!(!code.contains("unsafe"));
        assert!(code.contains("done()"));
    }
}
