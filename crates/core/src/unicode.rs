//! Classes of characters that names and screens treat specially.
//!
//! A topic that one node accepts must be valid on every other node and in every later build, so the classes
//! contain only code points whose meaning can no longer change: by the stability policy of Unicode (controls,
//! private use, noncharacters), or because their block is reserved for one meaning (default ignorable). They
//! are ranges in this file and not properties of a library, whose tables grow with each version of Unicode.
//! For the same reason code points that are merely unassigned are not rejected: the next version may assign
//! them, and until then screens show a placeholder.

use std::ops::RangeInclusive;

/// Bidirectional controls: they reorder the text around them.
const BIDI_CONTROLS: [RangeInclusive<char>; 4] = [
    '\u{61c}'..='\u{61c}',
    '\u{200e}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2066}'..='\u{2069}',
];

/// Characters without a visible shape, characters that look like U+0020 and are not, and characters without a
/// public meaning. The noncharacters at the end of each plane are not in the table.
const UNFIT_FOR_NAMES: [RangeInclusive<char>; 22] = [
    // No-break space, soft hyphen.
    '\u{a0}'..='\u{a0}',
    '\u{ad}'..='\u{ad}',
    // Combining grapheme joiner, Hangul fillers, Ogham space, Khmer inherent vowels, Mongolian selectors.
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{1680}'..='\u{1680}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    // Spaces of other widths, zero-width characters.
    '\u{2000}'..='\u{200d}',
    '\u{202f}'..='\u{202f}',
    '\u{205f}'..='\u{2065}',
    '\u{206a}'..='\u{206f}',
    // Blank Braille pattern, ideographic space, Hangul filler.
    '\u{2800}'..='\u{2800}',
    '\u{3000}'..='\u{3000}',
    '\u{3164}'..='\u{3164}',
    // Private use, noncharacters.
    '\u{e000}'..='\u{f8ff}',
    '\u{fdd0}'..='\u{fdef}',
    // Variation selectors, byte order mark, half-width Hangul filler.
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    // Reserved and annotation marks, and the replacement character, which stands for something lost.
    '\u{fff0}'..='\u{fffd}',
    // Format characters of shorthand and music.
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
];

/// The planes of tags and selectors (14) and of private use (15 and 16).
const SPECIAL_PLANES: RangeInclusive<char> = '\u{e0000}'..=char::MAX;

/// Whether a character acts on the display instead of being displayed: the controls C0, DEL and C1 (escape
/// sequences begin with one), line and paragraph separators, bidirectional controls and tags.
///
/// A screen must not receive it from text of others.
pub fn is_display_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{e0000}'..='\u{e0fff}')
        || is_in(&BIDI_CONTROLS, c)
}

/// Whether a character must not be part of a name: a display control, or a character that a reader cannot see
/// or cannot tell from another.
///
/// Look-alikes with a shape of their own, such as Latin and Cyrillic `a`, are different names.
pub fn is_unfit_for_names(c: char) -> bool {
    // ASCII first: nearly every name has nothing else.
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let is_noncharacter = u32::from(c) & 0xfffe == 0xfffe;
    let is_special = is_noncharacter || SPECIAL_PLANES.contains(&c);
    is_special || is_display_control(c) || is_in(&UNFIT_FOR_NAMES, c)
}

fn is_in(ranges: &[RangeInclusive<char>], c: char) -> bool {
    ranges.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_living_scripts_are_fit_for_names() {
        // Combining marks are letters in many scripts; emoji are symbols.
        for text in
            ["chat", "a b", "köln", "東京", "हिन्दी", "ไทย", "עברית", "العربية", "⚽", "🏆", "§€"]
        {
            assert!(!text.chars().any(is_unfit_for_names), "{text}");
            assert!(!text.chars().any(is_display_control), "{text}");
        }
    }

    #[test]
    fn invisible_and_meaningless_characters_are_unfit_for_names() {
        for c in [
            '\0',
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{a0}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2060}',
            '\u{2067}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fffd}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{e0041}',
            '\u{f0000}',
            '\u{10ffff}',
        ] {
            assert!(is_unfit_for_names(c), "U+{:04X}", u32::from(c));
        }
    }

    /// The standard library escapes characters without a shape in `Debug`. Its tables grow with Unicode, so
    /// they only check the ranges.
    #[test]
    fn no_character_with_a_shape_is_unfit_for_names() {
        let fillers = "\u{34f}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180c}\u{180d}\u{180f}\u{2800}\u{3164}";
        for c in ('\u{80}'..='\u{dfff0}').filter(|&c| is_unfit_for_names(c)) {
            let is_selector =
                matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fffc}' | '\u{fffd}');
            let is_escaped = format!("a{c}").escape_debug().any(|c| c == '\\');
            let has_shape = !is_escaped && !is_selector && !fillers.contains(c);
            assert!(!has_shape, "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn display_controls_are_a_part_of_the_characters_unfit_for_names() {
        assert!(('\0'..=char::MAX).filter(|&c| is_display_control(c)).all(is_unfit_for_names));
        assert!(!is_display_control('\u{200d}'), "part of emoji in payloads");
    }
}
