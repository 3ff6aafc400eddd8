//! A JSON object from outside, read field by field so that each fault has its field's name.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use serde_json::{Map, Value};

use uuid::Uuid;

use crate::{
    access::BODY,
    app::App,
    domain::{FieldErrors, cents},
    fault::Fault,
};

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
    pub fn of(fields: Map<String, Value>) -> Input {
        Input { fields, errors: FieldErrors::default() }
    }

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

    /// An amount of money in cents; None when it is left out. `"12.50"` or a number.
    pub fn money(&mut self, name: &str) -> Option<i64> {
        let value = self.take(name);
        let text = match &value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let read = cents(&text);
        if read.is_none() {
            self.errors.add(name, "This must be an amount with at most two decimals, such as 12.50.");
        }
        read
    }

    /// A number times a hundred; None when it is left out.
    pub fn hundredths(&mut self, name: &str) -> Option<i64> {
        match self.take(name) {
            Value::Null => None,
            #[expect(clippy::cast_possible_truncation, reason = "its range is checked by whoever asks")]
            Value::Number(number) => Some((number.as_f64().unwrap_or(-1.0) * 100.0).round() as i64),
            _ => self.wrong(name, "This must be a number."),
        }
    }

    /// An id; None when it is left out.
    pub fn id(&mut self, name: &str) -> Option<Uuid> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        let id = text.parse().ok();
        if id.is_none() {
            self.errors.add(name, "This must be an id.");
        }
        id
    }

    /// A text; None when it is left out.
    pub fn some(&mut self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|t| !t.is_empty())
    }

    /// A list of texts; None when it is left out.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        match self.take(name) {
            Value::Null => None,
            Value::Array(all) if all.iter().all(Value::is_string) => {
                Some(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            _ => self.wrong(name, "This must be a list of texts."),
        }
    }

    /// A list of objects.
    pub fn objects(&mut self, name: &str) -> Vec<Map<String, Value>> {
        match self.take(name) {
            Value::Array(all) if all.iter().all(Value::is_object) => {
                all.into_iter().filter_map(|v| if let Value::Object(o) = v { Some(o) } else { None }).collect()
            }
            _ => self.wrong(name, "This must be a list of objects."),
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

    /// A truth value; None when it is left out.
    pub fn maybe(&mut self, name: &str) -> Option<bool> {
        match self.take(name) {
            Value::Null => None,
            Value::Bool(flag) => Some(flag),
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
