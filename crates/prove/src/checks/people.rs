//! What people may see before and after they sign in.

use crate::{Lab, Miss, Seen, browser::Browser, claim::Call, must};

/// `page_needs_sign_in(PAGE, GROUP, TEXT OF THE PAGE)`.
pub async fn page_needs_sign_in(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (page, group, text) = (c.argument(0, "/"), c.argument(1, "user"), c.argument(2, ""));
    let mut stranger = Browser::stranger(&site)?;
    let issuer = site.url(&site.first("identity")?)?;
    let edge = site.url("edge")?;
    let (mut at, mut statuses) = (format!("{edge}{page}"), Vec::new());
    // From one redirect to the next, until somebody asks for a password.
    let asked = loop {
        let answer = stranger.get(&at).await?;
        statuses.push(answer.status);
        let to = answer.header("location").to_owned();
        if to.is_empty() {
            break answer;
        }
        must!(statuses.len() < 6, "{page} leads on and on, to {to}");
        let base: url::Url = at.parse().map_err(|e| Miss::Failed(format!("{at}: {e}")))?;
        at = base.join(&to).map_err(|e| Miss::Failed(format!("{to}: {e}")))?.to_string();
    };
    must!(at.starts_with(&issuer), "without a session {page} ends at {at}, {statuses:?}");
    must!(asked.text.contains("type=\"password\""), "the directory asks for no password");
    must!(!asked.text.contains(text), "who has no session is shown `{text}`");
    let mut person = site.signed_in(&[group]).await?;
    let shown = person.get(page).await?;
    must!(shown.status == 200 && shown.text.contains(text), "signed in, {page} answers {}", shown.status);
    Ok(format!(
        "without a session {page} leads to the directory's password ({statuses:?}); signed in: {}",
        shown.status
    ))
}
