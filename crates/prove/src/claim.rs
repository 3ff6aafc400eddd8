//! The rows of a `claims.toml`: what the document says, and how it is shown.

use toml_edit::{DocumentMut, TableLike};

use crate::Error;

/// How a row is shown, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// By a check of the thing itself.
    Check,
    /// A named product is replaced by a compatible part; which one.
    Substituted(String),
    /// Software can show a part of it; which one.
    Partly(String),
    /// Software cannot show it; why.
    OutOfReach(String),
    /// The document itself calls it future.
    Future,
    /// Nobody has said yet how it could be shown.
    None,
}

/// `name(argument, argument)` of a row's `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<String>,
}

/// One sentence of an architecture document.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    /// Line numbers of the document, such as `17,121-123`.
    pub source: String,
    pub area: String,
    pub text: String,
    pub proof: String,
    pub class: Class,
    pub call: Option<Call>,
    /// The stamp that the row speaks of; `dev` if it names none.
    pub on: String,
}

/// All rows of one system.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub rows: Vec<Row>,
}

impl Ledger {
    /// Reads the text of a `claims.toml`; `file` is its name for errors.
    ///
    /// # Errors
    /// It is not TOML, or a row lacks what every row has.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let fault = |what: String| Error::File { file: file.into(), what };
        let document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| fault(e.to_string()))?;
        let claims = document.get("claim").and_then(|c| c.as_array_of_tables());
        let claims = claims.ok_or_else(|| fault("it has no [[claim]]".into()))?;
        let rows = claims.iter().map(|claim| row(claim).map_err(fault)).collect::<Result<_, _>>()?;
        Ok(Self { rows })
    }
}

fn row(claim: &dyn TableLike) -> Result<Row, String> {
    let text = |key: &str| claim.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let id = text("id").ok_or("a claim has no id")?;
    let need = |key: &str| text(key).ok_or_else(|| format!("claim {id} has no {key}"));
    let class = if let Some(why) = text("out_of_reach") {
        Class::OutOfReach(why)
    } else if claim.get("future").and_then(|v| v.as_bool()) == Some(true) {
        Class::Future
    } else if let Some(part) = text("substituted") {
        Class::Substituted(part)
    } else if let Some(part) = text("partly") {
        Class::Partly(part)
    } else if claim.contains_key("check") {
        Class::Check
    } else {
        Class::None
    };
    let call = match text("check") {
        Some(check) => Some(Call::parse(&check).ok_or_else(|| format!("claim {id}: `{check}` is no name(arguments)"))?),
        None => None,
    };
    Ok(Row {
        source: need("source")?,
        area: need("area")?,
        text: need("text")?,
        proof: need("proof")?,
        on: text("on").unwrap_or_else(|| "dev".into()),
        id,
        class,
        call,
    })
}

impl Call {
    /// `name` or `name(a, b)`; arguments are plain words.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, rest) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(')')?)),
            None => (text, None),
        };
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(word) {
            return None;
        }
        let arguments = rest.unwrap_or_default().split(',').map(|a| a.trim().to_owned());
        let arguments: Vec<String> = arguments.filter(|a| !a.is_empty()).collect();
        (!arguments.iter().any(|a| a.contains(['(', ')']))).then(|| Self { name: name.into(), arguments })
    }

    /// The argument at `index`, or `or`.
    pub fn argument<'a>(&'a self, index: usize, or: &'a str) -> &'a str {
        self.arguments.get(index).map_or(or, String::as_str)
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name, self.arguments.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_name_and_plain_words() {
        let call = Call::parse("tls_min( postgres.main , 1.2)").expect("a call");
        assert_eq!((call.name.as_str(), call.argument(1, "")), ("tls_min", "1.2"));
        assert_eq!(call.to_string(), "tls_min(postgres.main, 1.2)");
        assert_eq!(Call::parse("plain").map(|c| c.arguments.len()), Some(0));
        for bad in ["", "Upper()", "a(", "a(b))", "a b()", "(x)"] {
            assert_eq!(Call::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_row_says_its_class_and_where_it_is_shown() {
        let text = r#"
            [[claim]]
            id = "A-1"
            source = "5"
            area = "edge"
            text = "t"
            proof = "p"
            check = "x(y)"
            on = "prod"
            [[claim]]
            id = "A-2"
            source = "6"
            area = "edge"
            text = "t"
            proof = "p"
        "#;
        let ledger = Ledger::parse("claims.toml", text).expect("a ledger");
        assert_eq!((&ledger.rows[0].class, ledger.rows[0].on.as_str()), (&Class::Check, "prod"));
        assert_eq!((&ledger.rows[1].class, ledger.rows[1].on.as_str()), (&Class::None, "dev"));
        let broken = Ledger::parse("claims.toml", &text.replace("x(y)", "x(y")).expect_err("refused");
        assert!(broken.to_string().contains("A-1"), "{broken}");
    }
}
