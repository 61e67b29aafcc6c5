//! Whether a text is JSON. Nothing is built, and every event of a passing stream is asked: `serde_json` takes 14
//! instructions a byte for it, a fifth of what a chunk costs in all.

use serde::de::IgnoredAny;

/// Deepest nesting that is followed here, a bit each.
const DEEPEST: u32 = u64::BITS;

/// The bytes at which a string is more than text: its end, an escape, what may not be in it.
const STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        stops[byte] = true;
        byte += 1;
    }
    stops[b'"' as usize] = true;
    stops[b'\\' as usize] = true;
    stops
};

/// Whether the text is one JSON value, as `serde_json` sees it.
pub fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|valid| {
        let scanned = Scan { text, at: 0 }.whole();
        scanned.unwrap_or_else(|TooDeep| serde_json::from_str::<IgnoredAny>(valid).is_ok())
    })
}

/// It may be JSON, only not for a [`Scan`].
struct TooDeep;

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn whole(&mut self) -> Result<bool, TooDeep> {
        // For each open object a one, for each open array a zero, the innermost last.
        let (mut depth, mut objects) = (0, 0u64);
        loop {
            self.space();
            let opened = match self.next() {
                Some(b'{') if !self.closes(b'}') => Some(true),
                Some(b'[') if !self.closes(b']') => Some(false),
                Some(b'{' | b'[') => None,
                Some(first) if self.scalar(first) => None,
                _ => return Ok(false),
            };
            if let Some(object) = opened {
                if depth == DEEPEST {
                    return Err(TooDeep);
                }
                depth += 1;
                objects = objects << 1 | u64::from(object);
                if object && !self.key() {
                    return Ok(false);
                }
                continue;
            }
            // A value ended, and with it perhaps what it stands in.
            loop {
                self.space();
                if depth == 0 {
                    return Ok(self.at == self.text.len());
                }
                match (self.next(), objects & 1) {
                    (Some(b','), 0) => break,
                    (Some(b','), 1) if self.key() => break,
                    (Some(b'}'), 1) | (Some(b']'), 0) => (depth, objects) = (depth - 1, objects >> 1),
                    _ => return Ok(false),
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether the bracket that was just opened closes at once.
    fn closes(&mut self, bracket: u8) -> bool {
        self.space();
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    /// A member's name and its colon.
    fn key(&mut self) -> bool {
        self.space();
        if self.next() != Some(b'"') || !self.string() {
            return false;
        }
        self.space();
        self.next() == Some(b':')
    }

    fn scalar(&mut self, first: u8) -> bool {
        match first {
            b'"' => self.string(),
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            _ => self.number(first),
        }
    }

    fn literal(&mut self, rest: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(rest);
        self.at += rest.len();
        found
    }

    /// The rest of a string.
    fn string(&mut self) -> bool {
        loop {
            let rest = &self.text[self.at..];
            let Some(length) = rest.iter().position(|byte| STOPS[usize::from(*byte)]) else { return false };
            self.at += length + 1;
            match rest[length] {
                b'"' => return true,
                b'\\' if self.escape() => {}
                _ => return false,
            }
        }
    }

    fn escape(&mut self) -> bool {
        match self.next() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
            Some(b'u') => {
                let digits = self.text.get(self.at..self.at + 4);
                self.at += 4;
                digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            }
            _ => false,
        }
    }

    /// The rest of a number.
    fn number(&mut self, first: u8) -> bool {
        let leading = if first == b'-' { self.next() } else { Some(first) };
        let whole = match leading {
            Some(b'0') => true,
            Some(b'1'..=b'9') => {
                self.digits();
                true
            }
            _ => false,
        };
        if whole && self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return false;
            }
        }
        if whole && matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            return self.digits() > 0;
        }
        whole
    }

    fn digits(&mut self) -> usize {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees(text: &[u8]) {
        let expected =
            std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        assert_eq!(is_json(text), expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn it_sees_what_serde_json_sees() {
        let texts = [
            "",
            " ",
            "{}",
            "[]",
            "{ }",
            "[ ]",
            "[,]",
            "[1,]",
            "{,}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "[}",
            "{]",
            "0",
            "-0",
            "-",
            "01",
            "1.",
            ".5",
            "1.5e",
            "1.5e+7",
            "1E-7",
            "1e5.5",
            "--1",
            "+1",
            "1 2",
            "[1 2]",
            "tru",
            "true",
            "nulll",
            "falsey",
            "false",
            "\"",
            "\"\\\"",
            "\"\\\"\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u1\"",
            "\"\\uD800\"",
            "\"\t\"",
            "\"\u{7f}\"",
            "\u{a0}1",
            "[[[{\"a\":[{}]}]]]",
            "[[[{\"a\":[{}}]]]",
            "{\"a\" : [1 , \"b\" ] }\r\n",
            "{\"a\":1}x",
        ];
        texts.iter().for_each(|text| agrees(text.as_bytes()));
        agrees(b"\"\xff\"");
        for depth in [63, 64, 65, 200] {
            agrees(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
            agrees(format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)).as_bytes());
            agrees(format!("{}1{}", "[".repeat(depth), "]".repeat(depth - 1)).as_bytes());
        }
    }

    #[test]
    fn it_sees_it_in_what_is_nearly_a_chunk() {
        let chunk = br#"{"id":"c-1","created":1795554736,"choices":[{"index":0,"delta":{"content":" t\u00e9\n"},"logprobs":null,"x":[-1.5e-3,true,false,{}]}]}"#;
        agrees(chunk);
        let odd = b"{}[],:\"\\ 0-+.eEtfnu/x\n\x01\xc3";
        for at in 0..chunk.len() {
            agrees(&chunk[..at]);
            agrees(&[&chunk[..at], &chunk[at + 1..]].concat());
            for byte in odd {
                agrees(&[&chunk[..at], &[*byte], &chunk[at..]].concat());
                agrees(&[&chunk[..at], &[*byte], &chunk[at + 1..]].concat());
            }
        }
    }
}
