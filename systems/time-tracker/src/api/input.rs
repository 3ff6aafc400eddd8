//! A JSON object from outside, read field by field so that each fault has its field's name.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use serde_json::{Map, Value};

use crate::{access::BODY, app::App, domain::FieldErrors, fault::Fault};

pub struct Input {
    fields: Map<String, Value>,
    errors: FieldErrors,
}

impl FromRequest<App> for Input {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &App) -> Result<Input, Fault> {
        let body = to_bytes(request.into_body(), BODY).await.map_err(|_| Fault::TooLarge)?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Input { fields, errors: FieldErrors::default() }),
            Ok(_) => Err(Fault::field("body", "The body must be a JSON object.")),
            Err(error) => Err(Fault::field(
                "body",
                &format!("The body is not JSON: line {}, column {}.", error.line(), error.column()),
            )),
        }
    }
}

impl Input {
    fn take(&mut self, name: &str) -> Value {
        self.fields.remove(name).unwrap_or(Value::Null)
    }

    /// A text; empty when it is left out.
    pub fn text(&mut self, name: &str) -> String {
        match self.take(name) {
            Value::Null => String::new(),
            Value::String(text) if !text.contains('\0') => text,
            Value::String(_) => self.wrong(name, "This holds a character that cannot be stored."),
            _ => self.wrong(name, "This must be a text."),
        }
    }

    /// A number of hours as text; empty when it is left out.
    pub fn hours(&mut self, name: &str) -> String {
        match self.take(name) {
            Value::Null => String::new(),
            Value::Number(number) => format!("{:.4}", number.as_f64().unwrap_or(-1.0)),
            _ => self.wrong(name, "This must be a number."),
        }
    }

    /// A whole number that must be there.
    pub fn whole(&mut self, name: &str) -> i32 {
        match self.take(name).as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(number) => number,
            None => self.wrong(name, "This must be a whole number."),
        }
    }

    /// A truth value; `default` when it is left out.
    pub fn flag(&mut self, name: &str, default: Option<bool>) -> bool {
        match (self.take(name), default) {
            (Value::Bool(flag), _) => flag,
            (Value::Null, Some(default)) => default,
            _ => self.wrong(name, "This must be true or false."),
        }
    }

    fn wrong<T: Default>(&mut self, name: &str, message: &str) -> T {
        self.errors.add(name, message);
        T::default()
    }

    /// Call it after the last field.
    ///
    /// # Errors
    /// A field has the wrong type, or there is one that nobody asked for.
    pub fn finish(mut self) -> Result<(), Fault> {
        for name in self.fields.keys().take(20) {
            self.errors.add(&name.chars().take(60).collect::<String>(), "There is no such field.");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Fault::Invalid(self.errors)) }
    }
}
