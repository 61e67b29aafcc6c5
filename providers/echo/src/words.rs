//! The "model": a token is a word with the white space behind it, at most [`MAX_BYTES`] long.

/// A longer word (base64, languages without spaces) counts as several.
const MAX_BYTES: usize = 256;

/// The first word of a text; `None` at its end. White space before the first word belongs to it.
pub fn first(text: &str) -> Option<&str> {
    if text.is_empty() {
        return None;
    }
    let bytes = text.as_bytes();
    let space = |byte: &u8| byte.is_ascii_whitespace();
    let head = &bytes[..bytes.len().min(MAX_BYTES)];
    let start = head.iter().position(|byte| !space(byte)).unwrap_or(head.len());
    let word_end = head[start..].iter().position(space).map_or(head.len(), |len| start + len);
    let mut end =
        head[word_end..].iter().position(|byte| !space(byte)).map_or(head.len(), |len| word_end + len);
    // Only the limit can lie within a character, and no character is as long as that.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Some(&text[..end])
}

/// How many words a text has.
pub fn count(text: &str) -> u64 {
    let mut rest = text;
    let mut words = 0;
    while let Some(word) = first(rest) {
        rest = &rest[word.len()..];
        words += 1;
    }
    words
}

/// Where a text is cut so that it has at most this many words; `None` if it is not longer.
pub fn cut(text: &str, max_words: Option<u64>) -> Option<usize> {
    let mut at = 0;
    for _ in 0..max_words? {
        at += first(&text[at..])?.len();
    }
    (at < text.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut rest = text;
        std::iter::from_fn(|| {
            let word = first(rest)?;
            rest = &rest[word.len()..];
            Some(word)
        })
        .collect()
    }

    #[test]
    fn words_keep_every_byte_of_the_text() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(words(text), expected);
            assert_eq!(count(text), expected.len() as u64);
        };
        check("", &[]);
        check("a", &["a"]);
        check("  a \n b  ", &["  a \n ", "b  "]);
        check(" ", &[" "]);
        check("über öl", &["über ", "öl"]);
        let long = "漢".repeat(100);
        assert_eq!(words(&long).concat(), long);
        assert_eq!(words(&long).iter().map(|word| word.len()).collect::<Vec<_>>(), [255, 45]);
    }

    #[test]
    fn a_text_is_cut_behind_a_word() {
        let check = |max, expected| assert_eq!(cut("one two three", max), expected, "{max:?}");
        check(None, None);
        check(Some(0), Some(0));
        check(Some(1), Some(4));
        check(Some(3), None);
        check(Some(u64::MAX), None);
    }
}
