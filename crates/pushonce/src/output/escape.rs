//! Escapes text of others before a screen receives it.
//!
//! Payloads, names and error texts of servers may contain control sequences, which could move the cursor,
//! rewrite earlier lines, set the title or send input to the shell, and characters that reorder the text around
//! them. Everything that a person reads passes through here: the text output of commands, errors, and the
//! fields of log lines.

use std::fmt::{self, Write};

use pushonce_core::unicode::is_display_control;

/// Escapes all display controls of a text, line breaks and tabs included: for one cell or one field.
pub fn escape(text: &str) -> String {
    escaped(text, false)
}

/// Escapes the display controls of a text except line breaks and tabs: for text that was laid out here.
pub fn escape_lines(text: &str) -> String {
    escaped(text, true)
}

fn escaped(text: &str, keeps_layout: bool) -> String {
    let mut writer = EscapingWriter { inner: String::with_capacity(text.len()), keeps_layout };
    // Writing to a string does not fail.
    let _ = writer.write_str(text);
    writer.inner
}

/// Like [`escape`], for a payload of any bytes: those that are not UTF-8 become `\xff`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        escaped += &escape(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Replaces the display controls of a JSON text by `\u` escapes, which have the same meaning: they only occur
/// in its strings, except white space.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '\n' | '\r' | '\t') || !is_display_control(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Escapes what is written through it.
pub struct EscapingWriter<W> {
    /// The destination.
    pub inner: W,
    /// Whether line breaks and tabs are kept.
    pub keeps_layout: bool,
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\n' | '\t' if self.keeps_layout => self.inner.write_char(c)?,
                c if is_display_control(c) => write!(self.inner, "{}", c.escape_default())?,
                c => self.inner.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that clears a screen, sets a title, rings, returns to the begin of the line, and reorders letters.
    const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}2J\r\u{202e}b\u{2028}\u{7f}\n\tc";

    #[test]
    fn no_display_control_is_left() {
        assert_eq!(
            escape(HOSTILE),
            "a\\u{1b}[2J\\u{1b}]0;t\\u{7}\\u{9b}2J\\r\\u{202e}b\\u{2028}\\u{7f}\\n\\tc"
        );
        assert!(!escape(HOSTILE).contains(is_display_control));
        let lines = escape_lines(HOSTILE);
        assert!(lines.ends_with("\n\tc") && !lines.contains('\r') && !lines.contains('\u{1b}'));
    }

    #[test]
    fn other_text_is_unchanged() {
        for text in ["", "{\"a\": 1}", "köln ⚽ 👨\u{200d}👩 \\ \"'", "हिन्दी"] {
            assert_eq!(escape(text), text);
            assert_eq!(escape_lines(text), text);
            assert_eq!(escape_json(text), text);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_visible() {
        assert_eq!(escape_bytes(b"a\x9b2J\xff\n"), "a\\x9b2J\\xff\\n");
    }

    #[test]
    fn escaped_json_has_the_same_meaning() {
        let value = serde_json::json!({"a\u{202e}": format!("{HOSTILE}\u{e0041}")});
        let escaped = escape_json(&value.to_string());
        assert!(!escaped.contains(is_display_control), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        let read: serde_json::Value = serde_json::from_str(&escape_json(&pretty)).expect("JSON");
        assert_eq!(read, value);
    }
}
