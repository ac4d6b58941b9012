//! Files with environment variables, in the syntax of `EnvironmentFile=` (systemd.exec(5)). Pure.
//!
//! | | |
//! |---|---|
//! | `NAME=VALUE` | one to a line; spaces around the name and the value do not count |
//! | `#`, `;` | a line that begins so is a comment; empty lines are none |
//! | `'...'` | taken as it is, also over several lines |
//! | `"..."` | over several lines too; a backslash before `"`, `\`, `` ` `` or `$` takes that as it is, and one at the end of a line joins it with the next |
//! | `\` elsewhere | takes the next character as it is; at the end of a line it joins it with the next |
//! | `$NAME` | is not replaced |
//!
//! systemd skips a line that is none of these, with a line in its log. Here it is refused: a variable that is
//! missing for its spelling (`export NAME=VALUE`) is found when it is written, not when it is used.

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvFileError {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is expected there.
    pub(crate) reason: String,
}

/// Where in a line the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeName,
    Name,
    BeforeValue,
    Value,
    ValueEscape,
    SingleQuoted,
    DoubleQuoted,
    DoubleQuotedEscape,
    Comment,
}

/// The variables of a text, in its order.
///
/// # Errors
/// The first line that is none.
pub(crate) fn parse_env_file(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut reader = Reader { state: State::BeforeName, ..Reader::default() };
    for character in text.chars() {
        reader.take(character)?;
        if character == '\n' {
            reader.line += 1;
        }
    }
    match reader.state {
        State::SingleQuoted | State::DoubleQuoted | State::DoubleQuotedEscape => {
            return Err(reader.error("the quotes that begin here do not end"));
        }
        State::Name => return Err(reader.without_equals()),
        State::BeforeName | State::Comment => {}
        State::BeforeValue | State::Value | State::ValueEscape => reader.finish()?,
    }
    Ok(reader.variables)
}

struct Reader {
    state: State,
    /// The line that is read, counted from 1.
    line: usize,
    /// The line in which the present variable begins.
    begin: usize,
    name: String,
    value: String,
    /// How much of the value stays when the spaces at its end are cut off.
    kept: usize,
    variables: Vec<(String, String)>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::BeforeName,
            line: 1,
            begin: 1,
            name: String::new(),
            value: String::new(),
            kept: 0,
            variables: Vec::new(),
        }
    }
}

impl Reader {
    fn take(&mut self, c: char) -> Result<(), EnvFileError> {
        let is_end = matches!(c, '\n' | '\r');
        let is_space = is_end || matches!(c, ' ' | '\t');
        self.state = match self.state {
            State::BeforeName if matches!(c, '#' | ';') => State::Comment,
            State::BeforeName if is_space => State::BeforeName,
            State::BeforeName => {
                self.begin = self.line;
                self.name.push(c);
                State::Name
            }
            State::Name if is_end => return Err(self.without_equals()),
            State::Name if c == '=' => State::BeforeValue,
            State::Name => {
                self.name.push(c);
                State::Name
            }
            State::BeforeValue | State::Value if is_end => {
                self.finish()?;
                State::BeforeName
            }
            State::BeforeValue if c == '\'' => State::SingleQuoted,
            State::BeforeValue if c == '"' => State::DoubleQuoted,
            State::BeforeValue | State::Value if c == '\\' => State::ValueEscape,
            State::BeforeValue if is_space => State::BeforeValue,
            State::BeforeValue | State::Value => {
                self.value.push(c);
                if !is_space {
                    self.kept = self.value.len();
                }
                State::Value
            }
            State::ValueEscape => {
                if !is_end {
                    self.keep(c);
                }
                State::Value
            }
            State::SingleQuoted if c == '\'' => State::BeforeValue,
            State::DoubleQuoted if c == '"' => State::BeforeValue,
            State::DoubleQuoted if c == '\\' => State::DoubleQuotedEscape,
            State::SingleQuoted | State::DoubleQuoted => {
                self.keep(c);
                self.state
            }
            State::DoubleQuotedEscape => {
                if !matches!(c, '"' | '\\' | '`' | '$' | '\n') {
                    self.keep('\\');
                }
                if c != '\n' {
                    self.keep(c);
                }
                State::DoubleQuoted
            }
            State::Comment if is_end => State::BeforeName,
            State::Comment => State::Comment,
        };
        Ok(())
    }

    fn keep(&mut self, c: char) {
        self.value.push(c);
        self.kept = self.value.len();
    }

    fn finish(&mut self) -> Result<(), EnvFileError> {
        let name = self.name.trim_end().to_owned();
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.starts_with(is_first) || !name.chars().all(is_part) {
            let hint = if name.starts_with("export ") { ", without `export`" } else { "" };
            return Err(self
                .error(&format!("{name:?} is no name of a variable: expected NAME=VALUE{hint}")));
        }
        self.value.truncate(self.kept);
        if self.value.contains('\0') {
            return Err(self.error("the value contains a NUL, which no environment can hold"));
        }
        self.variables.push((name, std::mem::take(&mut self.value)));
        self.name.clear();
        self.kept = 0;
        Ok(())
    }

    fn without_equals(&self) -> EnvFileError {
        self.error("expected NAME=VALUE, or # before a comment")
    }

    fn error(&self, reason: &str) -> EnvFileError {
        EnvFileError { line: self.begin, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse_env_file(text).unwrap()
    }

    #[test]
    fn variables_are_read_as_systemd_reads_them() {
        for (text, expected) in [
            ("A=b", "b"),
            ("A=", ""),
            ("  A = b c  \n", "b c"),
            ("A=b=c", "b=c"),
            ("A='a  \"b\" $C \\x'", "a  \"b\" $C \\x"),
            ("A=\"a \\\"b\\\" \\$C \\x \\\\\"", "a \"b\" $C \\x \\"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("A=\"one\\\ntwo\"", "onetwo"),
            ("A=one\\\ntwo", "onetwo"),
            ("A=one\\ ", "one "),
            ("A=a\\\\b", "a\\b"),
            ("A='a'\"b\"c", "abc"),
            ("A=it's", "it's"),
            ("A=b\r\n", "b"),
            ("A=$HOME", "$HOME"),
            ("A=\"\"", ""),
        ] {
            assert_eq!(parsed(text), [("A".to_owned(), expected.to_owned())], "{text:?}");
        }
        let text = "# a comment \\\n; another\n\nDATABASE_URL=postgres://x\n  B=2 # no comment\n";
        let expected = [("DATABASE_URL", "postgres://x"), ("B", "2 # no comment")];
        assert_eq!(parsed(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let fault = |text: &str| {
            let EnvFileError { line, reason } = parse_env_file(text).unwrap_err();
            format!("{line}: {reason}")
        };
        assert_eq!(
            fault("A=1\nexport B=2\n"),
            "2: \"export B\" is no name of a variable: expected NAME=VALUE, without `export`"
        );
        assert_eq!(fault("A=1\n\nB\n"), "3: expected NAME=VALUE, or # before a comment");
        assert_eq!(fault("B"), "1: expected NAME=VALUE, or # before a comment");
        assert_eq!(fault("A=1\nB='x\ny\n"), "2: the quotes that begin here do not end");
        assert!(fault("1A=x").contains("\"1A\" is no name"));
        assert!(fault("=x").contains("expected NAME=VALUE"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_variables_or_an_error(text in "[A=\"'\\\\\n #$x\r]{0,20}") {
            let _ = parse_env_file(&text);
        }
    }
}
