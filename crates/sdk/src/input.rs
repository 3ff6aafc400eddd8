//! What comes from outside, read field by field so that each fault has its field's name: JSON of programs, forms of
//! people.
//!
//! A handler of an application with a [`Gate`] takes [`Input`] or [`Fields`] as an argument; what cannot be read is a fault
//! of the application's.

use std::str::FromStr;

use axum::{
    Form,
    body::to_bytes,
    extract::{FromRequest, Request},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    access::Gate,
    fault::{Common, FieldErrors},
};

/// A JSON object; each field is taken once, and [`Input::finish`] tells all that was wrong.
pub struct Input {
    fields: Map<String, Value>,
    errors: FieldErrors,
}

impl<G: Gate> FromRequest<G> for Input {
    type Rejection = G::Fault;

    async fn from_request(request: Request, _: &G) -> Result<Input, G::Fault> {
        let body = to_bytes(request.into_body(), G::BODY).await.map_err(|_| Common::TooLarge)?;
        let wrong = |message: &str| -> G::Fault { Common::Invalid(FieldErrors::one("body", message)).into() };
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Input::of(fields)),
            Ok(_) => Err(wrong("The body must be a JSON object.")),
            Err(error) => {
                Err(wrong(&format!("The body is not JSON: line {}, column {}.", error.line(), error.column())))
            }
        }
    }
}

impl Input {
    /// An object within another.
    pub fn of(fields: Map<String, Value>) -> Input {
        Input { fields, errors: FieldErrors::default() }
    }

    /// The value itself; null when it is left out.
    pub fn take(&mut self, name: &str) -> Value {
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

    /// A text; None when it is left out.
    pub fn some(&mut self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|t| !t.is_empty())
    }

    /// A whole number that must be there.
    pub fn whole(&mut self, name: &str) -> i32 {
        match self.take(name).as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(number) => number,
            None => self.wrong(name, "This must be a whole number."),
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

    /// Notes what is wrong with a field, and gives what stands for its value until [`Input::finish`].
    pub fn wrong<T: Default>(&mut self, name: &str, message: &str) -> T {
        self.errors.add(name, message);
        T::default()
    }

    /// Call it after the last field.
    ///
    /// # Errors
    /// A field has the wrong type, or there is one that nobody asked for.
    pub fn finish(mut self) -> Result<(), Common> {
        for name in self.fields.keys().take(20) {
            self.errors.add(&name.chars().take(60).collect::<String>(), "There is no such field.");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Common::Invalid(self.errors)) }
    }
}

/// A posted form, in the order of its fields.
pub struct Fields(pub Vec<(String, String)>);

impl<G: Gate> FromRequest<G> for Fields {
    type Rejection = G::Fault;

    async fn from_request(request: Request, gate: &G) -> Result<Fields, G::Fault> {
        let form = Form::<Vec<(String, String)>>::from_request(request, gate).await;
        let Form(fields) = form.map_err(|_| Common::Malformed("The form cannot be read."))?;
        // PostgreSQL has no text with a zero byte in it.
        if fields.iter().any(|(_, v)| v.contains('\0')) {
            return Err(Common::Malformed("The form holds a character that cannot be stored.").into());
        }
        Ok(Fields(fields))
    }
}

impl Fields {
    /// The value of a field; empty when it was not sent.
    pub fn get(&self, name: &str) -> &str {
        self.some(name).unwrap_or_default()
    }

    /// The value of a field; None when it was not sent or is empty.
    pub fn some(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether a field was sent and is not empty.
    pub fn has(&self, name: &str) -> bool {
        self.some(name).is_some()
    }

    /// A text of several lines, without the carriage returns that browsers send.
    pub fn lines(&self, name: &str) -> String {
        self.get(name).replace('\r', "")
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// It is no number, or none that fits.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<T, Common> {
        let wrong = |_| Common::Invalid(FieldErrors::one(name, "Write a number here."));
        self.get(name).trim().parse().map_err(wrong)
    }

    /// A number; None when it was not sent or is empty.
    ///
    /// # Errors
    /// As [`Fields::number`].
    pub fn maybe<T: FromStr>(&self, name: &str) -> Result<Option<T>, Common> {
        if self.get(name).trim().is_empty() { Ok(None) } else { self.number(name).map(Some) }
    }

    /// Every value of a field that may be sent several times.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
}
