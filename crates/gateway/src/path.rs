//! How a target is read for routing, and which targets are refused because another server could read them differently.
//!
//! The path is forwarded as it came. It is matched decoded once, with empty segments skipped and without `;parameters`,
//! so that `/%61dmin`, `//admin` and `/admin;x` all meet the route of `/admin`. What cannot be read in one way only is
//! refused: dot segments (also encoded, also before a `;`), encoded `/`, `\` and NUL, bad percent-encoding.

/// Why a path was refused; the text goes into the log.
pub type Refused = &'static str;

/// The segments of `path` (a target without its query) as routes see them, joined by `/` with a leading `/`.
///
/// Without anything to decode it is `path` itself, and nothing is allocated.
pub fn normal(path: &str) -> Result<std::borrow::Cow<'_, str>, Refused> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err("path does not begin with a slash");
    }
    let mut plain = true;
    let mut last = 0;
    for &byte in bytes {
        if !(0x21..0x7f).contains(&byte) || byte == b'\\' {
            return Err("path has a character that must be encoded");
        }
        // A segment may only begin with a dot when it is looked at below.
        plain &= byte != b'%' && byte != b';' && !(last == b'/' && (byte == b'/' || byte == b'.'));
        last = byte;
    }
    if plain {
        return Ok(path.into());
    }
    let mut normal = String::with_capacity(path.len());
    for raw in path.split('/') {
        let decoded = decode(raw)?;
        let segment = decoded.split(|b| *b == b';').next().unwrap_or_default();
        if segment == b"." || segment == b".." {
            return Err("path has a dot segment");
        }
        if segment.is_empty() {
            continue;
        }
        normal.push('/');
        normal.push_str(&String::from_utf8_lossy(segment));
    }
    if normal.is_empty() || path.ends_with('/') {
        normal.push('/');
    }
    Ok(normal.into())
}

fn decode(raw: &str) -> Result<Vec<u8>, Refused> {
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err("path has a bad percent-encoding");
        };
        match (high * 16 + low) as u8 {
            b'/' | b'\\' => return Err("path has an encoded slash"),
            0 => return Err("path has an encoded NUL"),
            byte => decoded.push(byte),
        }
    }
    Ok(decoded)
}

/// Whether `path` (normal) lies under `prefix` (normal, without a slash at its end; empty is the root), by whole segments.
pub fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The host of a `Host` field or `:authority`, lower-case, without its port and a last dot. None if it is no host.
pub fn host(authority: &str) -> Option<std::borrow::Cow<'_, str>> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..inner.len() + 2], after)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if !port.is_empty() {
        let digits = port.strip_prefix(':')?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u16>().ok()?;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if host.is_empty() || host.len() > 255 || (!host.starts_with('[') && !host.bytes().all(fits)) {
        return None;
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Some(host.to_ascii_lowercase().into())
    } else {
        Some(host.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_path_meet_one_route() {
        for path in ["/admin", "/%61dmin", "//admin", "/admin/", "/admin;x=1", "/admin/x"] {
            assert!(under(&normal(path).unwrap(), "/admin"), "{path}");
        }
        assert!(!under(&normal("/admins").unwrap(), "/admin"));
        assert!(under(&normal("/").unwrap(), ""));
        assert_eq!(normal("/.well-known/x").unwrap(), "/.well-known/x");
        assert_eq!(normal("/a//b/").unwrap(), "/a/b/");
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "admin",
            "*",
            "/a/../b",
            "/a/%2e%2E/b",
            "/..",
            "/a/.",
            "/./a",
            "/a/..;/b",
            "/a/%2e%2e;x/b",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a b",
            "/é",
        ] {
            assert!(normal(path).is_err(), "{path}");
        }
    }

    #[test]
    fn hosts_lose_port_case_and_last_dot() {
        assert_eq!(host("Web.Example.:8443").as_deref(), Some("web.example"));
        assert_eq!(host("127.0.0.1:80").as_deref(), Some("127.0.0.1"));
        assert_eq!(host("[::1]:80").as_deref(), Some("[::1]"));
        for bad in ["", ":80", "a:", "a:b", "a:99999", "a b", "a/b", "a@b", "[::1", "[x]", "[::1]x", "a,b", "."] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "/[a-z%2eE5cf./;]{0,24}") {
            if let Ok(once) = normal(&path) {
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|s| s == "." || s == ".."), "{once}");
                prop_assert!(!once.contains("//"), "{once}");
            }
        }
    }
}
