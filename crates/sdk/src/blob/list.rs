//! Lists of blobs, a page at a time.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::{BlobError, Container};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Only names that begin so.
    pub prefix: String,
    /// Names that go on past this after the prefix are told once, as a prefix (`/` makes folders of them).
    pub delimiter: Option<String>,
    /// [`Page::next`] of the page before.
    pub marker: Option<String>,
    /// Entries of a page; 5,000 at most and if not given.
    pub most: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub blobs: Vec<Entry>,
    /// With a delimiter: what stands before the rest of several names.
    pub prefixes: Vec<String>,
    /// The marker of the next page; None on the last.
    pub next: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub length: u64,
    pub content_type: String,
    pub etag: String,
    /// As HTTP writes it.
    pub last_modified: String,
}

impl Container {
    /// One page of the container's blobs, in the order of their names.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn list(&self, list: &List) -> Result<Page, BlobError> {
        let most = list.most.map(|most| most.to_string());
        let mut query = vec![("restype", "container"), ("comp", "list")];
        let given = [
            ("prefix", Some(list.prefix.as_str()).filter(|prefix| !prefix.is_empty())),
            ("delimiter", list.delimiter.as_deref()),
            ("marker", list.marker.as_deref()),
            ("maxresults", most.as_deref()),
        ];
        query.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let what = self.what("the list of", "");
        let url = self.url("", &query);
        let answer = self.account.send(&what, Method::GET, &url, HeaderMap::new(), Bytes::new()).await?;
        let wrong = |why| BlobError::Answer { what: what.clone(), why };
        let text = std::str::from_utf8(&answer.body).map_err(|_| wrong("it is no text"))?;
        page(text).ok_or_else(|| wrong("it is no list of blobs"))
    }
}

/// Reads the answer's XML. It is a format of fixed names, so that no more of XML is needed than elements and entities.
fn page(text: &str) -> Option<Page> {
    let body = inside(text, "Blobs")
        .or_else(|| text.contains("<Blobs />").then_some("").or(text.contains("<Blobs/>").then_some("")))?;
    let mut page = Page::default();
    for blob in each(body, "Blob") {
        let properties = inside(blob, "Properties")?;
        let field = |name| inside(properties, name).map(plain).unwrap_or_default();
        page.blobs.push(Entry {
            name: plain(inside(blob, "Name")?),
            length: field("Content-Length").parse().ok()?,
            content_type: field("Content-Type"),
            etag: field("Etag"),
            last_modified: field("Last-Modified"),
        });
    }
    for prefix in each(body, "BlobPrefix") {
        page.prefixes.push(plain(inside(prefix, "Name")?));
    }
    page.next = inside(text, "NextMarker").map(plain).filter(|marker| !marker.is_empty());
    Some(page)
}

/// What is inside of the first element of this name.
fn inside<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    each(text, name).next()
}

/// What is inside of each element of this name; none of them holds another of its name.
fn each<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let from = rest.find(&open)? + open.len();
        let to = from + rest[from..].find(&close)?;
        let found = &rest[from..to];
        rest = &rest[to + close.len()..];
        Some(found)
    })
}

/// Text with its entities resolved.
fn plain(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (entity, sign)| text.replace(entity, sign))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let text = "<?xml version=\"1.0\"?><EnumerationResults><Blobs><Blob><Name>a &amp;lt; b</Name><Properties>\
            <Last-Modified>Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified><Etag>0x1</Etag><Content-Length>3</Content-Length>\
            <Content-Type>text/plain</Content-Type></Properties></Blob><BlobPrefix><Name>d/</Name></BlobPrefix></Blobs>\
            <NextMarker>m&amp;n</NextMarker></EnumerationResults>";
        let page = page(text).unwrap();
        assert_eq!((page.blobs[0].name.as_str(), page.blobs[0].length), ("a &lt; b", 3));
        assert_eq!((page.prefixes, page.next), (vec!["d/".to_owned()], Some("m&n".to_owned())));
        assert!(super::page("<html>").is_none());
        assert_eq!(super::page("<X><Blobs/><NextMarker/></X>").unwrap(), Page::default());
    }
}
