//! Conditions of a request: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`, and the lease it names.

use axum::http::{HeaderMap, StatusCode};

use crate::{fields, refusal::Refusal, rows::Facts, time};

#[derive(Clone, Debug, Default)]
pub struct Conditions {
    matches: Option<String>,
    none_matches: Option<String>,
    modified_since_s: Option<i64>,
    unmodified_since_s: Option<i64>,
    pub lease: Option<String>,
}

impl Conditions {
    pub fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        Self::named(headers, "")
    }

    /// Those of the source of a copy.
    pub fn of_source(headers: &HeaderMap) -> Result<Self, Refusal> {
        Self::named(headers, "x-ms-source-")
    }

    fn named(headers: &HeaderMap, before: &str) -> Result<Self, Refusal> {
        let text = |name: &str| fields::text(headers, &format!("{before}{name}")).map(|t| t.map(str::to_owned));
        let second = |name: &str| {
            let read = |text: String| time::of_http(&text).ok_or_else(|| Refusal::header(name, "it is a date of HTTP"));
            text(name)?.map(read).transpose()
        };
        if fields::text(headers, "x-ms-if-tags")?.is_some() {
            return Err(Refusal::not_here("a condition on tags"));
        }
        Ok(Self {
            matches: text("if-match")?,
            none_matches: text("if-none-match")?,
            modified_since_s: second("if-modified-since")?,
            unmodified_since_s: second("if-unmodified-since")?,
            lease: fields::text(headers, if before.is_empty() { "x-ms-lease-id" } else { "x-ms-source-lease-id" })?
                .map(str::to_owned),
        })
    }

    /// The lease alone.
    pub fn lease_only(&self) -> Self {
        Self { lease: self.lease.clone(), ..Self::default() }
    }

    /// Nothing is to be there.
    pub fn only_new(mut self) -> Self {
        self.none_matches = Some("*".into());
        self
    }

    /// Whether what is there may be read: 304 where the caller has it already, 412 where they want another.
    pub fn check_read(&self, etag: &str, modified_us: i64) -> Result<(), Refusal> {
        let second = modified_us.div_euclid(1_000_000);
        if self.matches.as_deref().is_some_and(|list| !holds(list, etag)) {
            return Err(Refusal::condition());
        }
        // If-Match, where it is there, counts more than the date (RFC 9110, section 13.2.2); so does If-None-Match.
        if self.matches.is_none() && self.unmodified_since_s.is_some_and(|since| second > since) {
            return Err(Refusal::condition());
        }
        let same = match &self.none_matches {
            Some(list) => holds(list, etag),
            None => self.modified_since_s.is_some_and(|since| second <= since),
        };
        if same {
            let mut refusal = Refusal::condition();
            refusal.status = StatusCode::NOT_MODIFIED;
            return Err(refusal);
        }
        Ok(())
    }

    /// Whether what is there, if anything, may be changed.
    pub fn check_change(&self, there: Option<&Facts>) -> Result<(), Refusal> {
        let Some(facts) = there else {
            return if self.matches.is_some() { Err(Refusal::condition()) } else { Ok(()) };
        };
        if self.none_matches.as_deref().map(str::trim) == Some("*") {
            return Err(Refusal::there_is_a_blob());
        }
        self.check_read(&facts.etag, facts.modified_us).map_err(|mut refusal| {
            refusal.status = StatusCode::PRECONDITION_FAILED;
            refusal
        })
    }
}

/// Whether a list of ETags holds this one.
fn holds(list: &str, etag: &str) -> bool {
    list.split(',')
        .map(|one| one.trim().trim_start_matches("W/").trim_matches('"'))
        .any(|one| one == "*" || one == etag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn conditions(fields: &[(&'static str, &str)]) -> Conditions {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        Conditions::read(&headers).unwrap()
    }

    #[test]
    fn conditions_are_met_or_not() {
        let read = |fields: &[(&'static str, &str)]| {
            conditions(fields).check_read("0x1", 1_795_395_723_500_000).err().map(|r| r.status.as_u16())
        };
        let (then, later) = ("Mon, 23 Nov 2026 01:02:03 GMT", "Mon, 23 Nov 2026 01:02:04 GMT");
        assert_eq!(read(&[("if-match", "\"0x1\"")]), None);
        assert_eq!(read(&[("if-match", "\"0x0\", \"0x1\"")]), None);
        assert_eq!(read(&[("if-match", "\"0x2\"")]), Some(412));
        assert_eq!(read(&[("if-none-match", "\"0x1\"")]), Some(304));
        assert_eq!(read(&[("if-none-match", "\"0x2\"")]), None);
        assert_eq!(read(&[("if-modified-since", then)]), Some(304));
        assert_eq!(read(&[("if-unmodified-since", then)]), None);
        assert_eq!(read(&[("if-unmodified-since", "Mon, 23 Nov 2026 01:02:02 GMT"), ("if-match", "0x1")]), None);
        assert_eq!(read(&[("if-modified-since", later), ("if-none-match", "\"0x2\"")]), None);
        let there = Facts { etag: "0x1".into(), ..Facts::default() };
        let change = |fields: &[(&'static str, &str)], there| {
            conditions(fields).check_change(there).err().map(|r| (r.status.as_u16(), r.code))
        };
        assert_eq!(change(&[("if-none-match", "*")], Some(&there)), Some((409, "BlobAlreadyExists")));
        assert_eq!(change(&[("if-none-match", "*")], None), None);
        assert_eq!(change(&[("if-match", "*")], None), Some((412, "ConditionNotMet")));
        assert_eq!(change(&[("if-none-match", "\"0x1\"")], Some(&there)), Some((412, "ConditionNotMet")));
    }
}
