//! Texts of limited length.

/// The first `limit` bytes of a text, less where that would cut a character.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= limit).last();
    format!("{}...", &text[..end.unwrap_or(0)])
}
