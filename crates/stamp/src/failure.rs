//! How a failure is shown: `error[CODE]: what`, causes, lines, then `hint:`.

use std::io::Write as _;

use api::supervisor::Failure;

/// A failure on its way to the person.
#[derive(Debug)]
pub struct Failed(pub Failure);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Failed {}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failed) => failed,
            Err(error) => {
                let mut chain = error.chain().map(ToString::to_string);
                let message = chain.next().unwrap_or_default();
                Self(Failure { code: "S0001".into(), message, causes: chain.collect(), exit: 1, ..Failure::default() })
            }
        }
    }
}

impl Failed {
    /// Something was asked that cannot be.
    pub fn asked(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        let failure = Failure {
            code: "S0002".into(),
            message: message.into(),
            hint: Some(hint.into()),
            exit: 2,
            ..Failure::default()
        };
        Self(failure).into()
    }

    /// The world does not allow it.
    pub fn world(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        let failure = Failure {
            code: "S0001".into(),
            message: message.into(),
            hint: Some(hint.into()),
            exit: 1,
            ..Failure::default()
        };
        Self(failure).into()
    }

    pub fn exit(&self) -> u8 {
        self.0.exit.max(1)
    }

    /// Shows the failure on standard error, and as JSON on standard output where data is wanted.
    pub fn show(&self, json: bool) {
        let Failure { code, message, causes, lines, hint, .. } = &self.0;
        if json {
            let object = serde_json::json!({ "error": { "code": code, "message": message, "causes": causes, "lines": lines, "hint": hint } });
            crate::screen::data(&object.to_string());
        }
        let mut text = String::new();
        // A manifest's faults come rendered, each with its own code and place.
        if code == "S0100" {
            text.push_str(&lines.join("\n"));
            text.push('\n');
        } else {
            text.push_str(&format!("{}: {message}\n", crate::screen::red(&format!("error[{code}]"))));
            for cause in causes {
                text.push_str(&format!("  because: {cause}\n"));
            }
            for line in lines {
                text.push_str(&format!("  | {line}\n"));
            }
        }
        if let Some(hint) = hint {
            text.push_str(&format!("{} {hint}\n", crate::screen::bold("hint:")));
        }
        if code.len() == 5 && code != "S0100" && code != "S0001" && code != "S0002" {
            text.push_str(&format!("      `stamp explain {code}` tells more\n"));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
