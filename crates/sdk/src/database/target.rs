//! Where the database is: an Npgsql connection string or a `postgresql://` URL.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::Url;

use super::OpenError;
use crate::{Secret, Settings};

/// A parsed connection string.
#[derive(Clone, Debug)]
pub struct Target {
    /// A host name, an IP address, or the directory of a unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub tls: bool,
    /// PEM file of the authorities that the server's certificate must lead to.
    pub root_certificate: Option<PathBuf>,
    pub max_pool_size: Option<usize>,
}

/// What is wrong with a connection string. Never shows the string: it holds a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the connection string has no {0}")]
    Missing(&'static str),
    #[error("the connection string's {0} cannot be read")]
    Unreadable(&'static str),
    #[error("a quoted value of the connection string does not end")]
    Quote,
    #[error("the connection string turns certificate checks off; they are always on")]
    Unverified,
    #[error("the connection string turns TLS off, which is allowed for unix sockets and loopback addresses only")]
    Plain,
}

impl Target {
    /// Reads either form. TLS is verified in full whenever it is used (`Require` and `VerifyCA` are not weakened to less);
    /// without a mode it is used for every host but a unix socket.
    ///
    /// # Errors
    /// A part is missing or unreadable, or the string asks for less security than there is.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let pairs = if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            from_url(text)?
        } else {
            from_npgsql(text)?
        };
        from_pairs(pairs)
    }

    /// By libpq's own variables.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn from_libpq(settings: &Settings) -> Result<Target, OpenError> {
        let mut pairs = Pairs::new();
        pairs.push(("host".into(), settings.required("PGHOST", "the database's host name")?.into()));
        pairs.push(("database".into(), settings.required("PGDATABASE", "the database's name")?.into()));
        pairs.push(("user".into(), settings.required("PGUSER", "the role in the database")?.into()));
        for (name, key) in
            [("PGPORT", "port"), ("PGPASSWORD", "password"), ("PGSSLMODE", "sslmode"), ("PGSSLROOTCERT", "sslrootcert")]
        {
            if let Some(value) = settings.optional(name)? {
                pairs.push((key.into(), value.into()));
            }
        }
        Ok(from_pairs(pairs)?)
    }

    /// Whether the host is the directory of a unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

type Pairs = Vec<(String, String)>;

fn from_url(text: &str) -> Result<Pairs, TargetError> {
    let url = Url::parse(text).map_err(|_| TargetError::Unreadable("URL"))?;
    let plain = |text: &str, what| {
        percent_decode_str(text).decode_utf8().map(|t| t.into_owned()).map_err(|_| TargetError::Unreadable(what))
    };
    let mut pairs = Pairs::new();
    if let Some(host) = url.host_str().filter(|h| !h.is_empty()) {
        pairs.push(("host".into(), plain(host.trim_matches(['[', ']']), "host")?));
    }
    if let Some(port) = url.port() {
        pairs.push(("port".into(), port.to_string()));
    }
    pairs.push(("username".into(), plain(url.username(), "user")?));
    if let Some(password) = url.password() {
        pairs.push(("password".into(), plain(password, "password")?));
    }
    pairs.push(("database".into(), plain(url.path().trim_start_matches('/'), "database")?));
    pairs.extend(url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())));
    Ok(pairs)
}

fn from_npgsql(text: &str) -> Result<Pairs, TargetError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start_matches([';', ' ']);
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(TargetError::Unreadable("form (Key=Value;...)"))?;
        let after = after.trim_start();
        let (value, next) = match after.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            Some(quote) => quoted(&after[1..], quote)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        pairs.push((key.trim().to_owned(), value));
        rest = next.trim_start_matches([';', ' ', '\n', '\r']);
    }
    Ok(pairs)
}

/// A quoted value: a doubled quote stands for one.
fn quoted(text: &str, quote: char) -> Result<(String, &str), TargetError> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            value.push(quote);
            chars.next();
        } else {
            return Ok((value, &text[at + 1..]));
        }
    }
    Err(TargetError::Quote)
}

fn from_pairs(pairs: Pairs) -> Result<Target, TargetError> {
    let (mut host, mut port, mut database, mut user) = (None, 5432, None, None);
    let (mut password, mut root_certificate, mut max_pool_size, mut mode) = (None, None, None, None);
    for (key, value) in pairs {
        let key: String = key.chars().filter(|c| !matches!(c, ' ' | '_')).collect::<String>().to_ascii_lowercase();
        match key.as_str() {
            "host" | "server" => host = Some(value),
            "port" => port = value.parse().map_err(|_| TargetError::Unreadable("Port"))?,
            "database" | "db" | "dbname" => database = Some(value),
            "username" | "userid" | "user" | "uid" => user = Some(value),
            "password" | "pwd" => password = Some(Secret::new(value)),
            "rootcertificate" | "sslrootcert" => root_certificate = Some(PathBuf::from(value)),
            "maximumpoolsize" | "maxpoolsize" => {
                max_pool_size = Some(value.parse().map_err(|_| TargetError::Unreadable("Maximum Pool Size"))?);
            }
            "sslmode" => mode = Some(value.replace('-', "").to_ascii_lowercase()),
            "trustservercertificate" if value.eq_ignore_ascii_case("true") => return Err(TargetError::Unverified),
            // Npgsql has some forty further keys (time-outs, pooling); none of them makes a connection less safe here.
            _ => {}
        }
    }
    let required = |value: Option<String>, what| value.filter(|v| !v.is_empty()).ok_or(TargetError::Missing(what));
    let host = required(host, "Host")?;
    let socket = host.starts_with('/');
    let local = socket || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    let tls = match mode.as_deref() {
        None => !socket,
        Some("disable" | "allow" | "prefer") if local => false,
        Some("disable" | "allow" | "prefer") => return Err(TargetError::Plain),
        Some("require" | "verifyca" | "verifyfull") => !socket,
        Some(_) => return Err(TargetError::Unreadable("SSL Mode")),
    };
    let (database, user) = (required(database, "Database")?, required(user, "Username")?);
    Ok(Target { host, port, database, user, password, tls, root_certificate, max_pool_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_one_target_read_alike() {
        let npgsql =
            "Host=10.0.2.4;Port=5433;Database=app;Username=web;Password=p;SSL Mode=VerifyFull;Root Certificate=/ca.pem";
        let url = "postgresql://web:p@10.0.2.4:5433/app?sslmode=verify-full&sslrootcert=/ca.pem";
        for text in [npgsql, url] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.database.as_str()), ("10.0.2.4", 5433, "app"));
            assert!(target.tls && target.user == "web" && target.password.unwrap().matches("p"));
            assert_eq!(target.root_certificate, Some("/ca.pem".into()));
        }
    }

    #[test]
    fn a_password_may_hold_any_character() {
        let npgsql = "Server=h;Database=d;User Id=u;Password=\"a;b=c\"\"d\";";
        assert_eq!(Target::parse(npgsql).unwrap().password.unwrap().reveal(), "a;b=c\"d");
        let url = Target::parse("postgres://u:a%3Bb%40%2F@h/d").unwrap();
        assert_eq!(url.password.unwrap().reveal(), "a;b@/");
    }

    #[test]
    fn less_security_than_there_is_is_refused() {
        let with = |more: &str| Target::parse(&format!("Host=db.example;Database=d;Username=u;{more}")).unwrap_err();
        assert_eq!(with("SSL Mode=Disable"), TargetError::Plain);
        assert_eq!(with("SSL Mode=Prefer"), TargetError::Plain);
        assert_eq!(with("Trust Server Certificate=true"), TargetError::Unverified);
        assert!(!Target::parse("Host=/run/pg;Database=d;Username=u").unwrap().tls);
        assert!(Target::parse("Host=127.0.0.1;Database=d;Username=u").unwrap().tls);
        assert!(Target::parse("Host=db.example;Database=d;Username=u;SSL Mode=Require").unwrap().tls);
    }

    #[test]
    fn an_error_and_a_debug_text_never_show_the_password() {
        let target = Target::parse("Host=h;Database=d;Username=u;Password=hunter2").unwrap();
        assert!(!format!("{target:?}").contains("hunter2"));
        let error = Target::parse("Host=h;Port=x;Database=d;Username=u;Password=hunter2").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn parsing_arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = Target::parse(&text);
        }

        #[test]
        fn any_password_survives_quoting(password in "[ -~]{1,40}") {
            let text = format!("Host=h;Database=d;Username=u;Password=\"{}\";Port=1", password.replace('"', "\"\""));
            let target = Target::parse(&text).unwrap();
            proptest::prop_assert!(target.password.unwrap().matches(&password));
            proptest::prop_assert_eq!(target.port, 1);
        }
    }
}
