//! People's rights on the vault, what its tier allows, and the password of the database's administrator.

use std::path::PathBuf;

use api::{
    Secret,
    supervisor::{RotateRequest, Rotated, StampRef},
    vault::VaultStatus,
};
use serde_json::{Value, json};

use super::vault::{call, fresh};
use crate::{Lab, Miss, Seen, Site, claim::Call, miss, must, site::until};

/// `tier_without_hardware(TIER, SERVICE)`: the service is made an administrator of the vault for it, since who may not work with
/// keys is refused for that already.
pub async fn tier(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (tier, service) = (c.argument(0, "standard"), c.argument(1, ""));
    let vault = site.first("vault")?;
    let status: VaultStatus = site.control(&vault)?.get("/status").await?;
    must!(status.sku.eq_ignore_ascii_case(tier), "the tier of {vault} is {}", status.sku);
    let name = vault.trim_start_matches("vault.");
    // In the stamp's own overlay, which counts before what all stamps have.
    let access = format!(
        "[stamps.{on}.vault.{name}]\naccess = [{{ to = \"{service}\", role = \"Key Vault Administrator\" }}, \
         {{ to = \"{service}.migrate\", role = \"Key Vault Secrets User\" }}]\n"
    );
    let seen = async {
        let site = lab.changed(on, &access).await?;
        let client = site.vault(service).await?;
        let path = format!("/keys/{}/create", fresh());
        let (software, hardware) = until("the role counts", async || {
            let software = call(&client, "POST", &path, json!({ "kty": "RSA" })).await?;
            must!(software.0 != 403, "a key of software is answered {} {}", software.0, software.1);
            Ok((software, call(&client, "POST", &path, json!({ "kty": "RSA-HSM", "key_size": 2048 })).await?))
        })
        .await?;
        let message = hardware.1["error"]["message"].as_str().unwrap_or_default().to_owned();
        must!(
            hardware.0 == 403 && message.to_lowercase().contains("not allowed on standard vault"),
            "a key in hardware is answered {} {message}",
            hardware.0
        );
        Ok(format!("tier {}; as an administrator, RSA-HSM: 403 {message}; RSA: {}", status.sku, software.0))
    }
    .await;
    lab.restore(on).await?;
    seen
}

/// Signs in at the database as its administrator, by the socket of its server: over the network it is nobody's.
async fn as_admin(socket: PathBuf, port: u16, password: &Secret) -> Result<String, Miss> {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(socket)
        .port(port)
        .user("postgres")
        .password(password.expose())
        .dbname("postgres")
        .connect(tokio_postgres::NoTls)
        .await?;
    let connection = tokio::spawn(connection);
    let sql = "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user";
    let rows = crate::sql::rows(&client, sql).await;
    drop(client);
    // Its end is the server's to notice.
    let _ = connection.await;
    match rows?.first().map(Vec::as_slice) {
        Some([user, superuser]) if superuser == "t" => Ok(user.clone()),
        other => Err(Miss::Failed(format!("who signed in is {other:?}"))),
    }
}

async fn secret(site: &Site, name: &str) -> Result<Secret, Miss> {
    let (status, body) =
        call(&site.vault("supervisor").await?, "GET", &format!("/secrets/{name}"), Value::Null).await?;
    must!(status == 200, "{name} is answered {status}");
    Ok(Secret::new(body["value"].as_str().unwrap_or_default()))
}

/// `admin_password_rotates(DATABASE, SECRET)`.
pub async fn admin_password(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (database, name) = (c.argument(0, ""), c.argument(1, ""));
    let control = site.controls.get(database).and_then(|path| path.parent());
    let socket = control.ok_or_else(|| Miss::Failed(format!("{database} does not run")))?.join(format!("{database}.d"));
    let port = site.address(database)?.port();
    let old = secret(&site, name).await?;
    let user = as_admin(socket.clone(), port, &old).await?;
    let Err(Miss::Failed(wrong)) = as_admin(socket.clone(), port, &Secret::new("another")).await else {
        miss!("any password signs the administrator in")
    };
    must!(wrong.contains("authentication failed"), "another password: {wrong}");
    let StampRef { system, stamp } = site.of();
    let ask = RotateRequest { system, stamp, vault: None, name: name.into() };
    let rotated: Rotated = site.supervisor.post("/secret/rotate", &ask).await?;
    let new = secret(&site, name).await?;
    must!(!new.matches(old.expose()), "the vault has the old value");
    let Err(Miss::Failed(refused)) = as_admin(socket.clone(), port, &old).await else {
        miss!("the old password still signs the administrator in")
    };
    must!(refused.contains("authentication failed"), "the old password: {refused}");
    as_admin(socket.clone(), port, &new).await?;
    // The keeper goes on with it, also after its server was started anew.
    let site = lab.restore(on).await?;
    let status = site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status;
    must!(status.is_success(), "after the rotation the application answers {status}");
    Ok(format!(
        "{user} signs in by {}; rotated in {}: the old one: {refused}, the new one signs in",
        rotated.name, rotated.vault
    ))
}

/// `officers_by_stamp(GROUP, STAMP WHERE IT IS ALLOWED..., STAMP WHERE IT IS NOT)`.
pub async fn officers_by_stamp(lab: &Lab, _: &str, c: &Call) -> Seen {
    let group = c.argument(0, "developer");
    let Some((last, allowed)) = c.arguments.get(1..).and_then(|stamps| stamps.split_last()) else {
        miss!("no stamps are named")
    };
    let mut seen = Vec::new();
    for stamp in allowed.iter().chain([last]) {
        let site = lab.site(stamp).await?;
        let path = format!("/secrets/{}", fresh());
        let put = async |groups: &[&str]| {
            let token = site.person(groups).await?.token(&site, "https://vault.azure.net").await?;
            let client = site.client(&site.url(&site.first("vault")?)?)?.bearer(token);
            call(&client, "PUT", &path, json!({ "value": "set by a person" })).await
        };
        let (status, body) = put(&[group]).await?;
        let wanted = if stamp == last { 403 } else { 200 };
        must!(status == wanted, "in {stamp} somebody of {group} is answered {status} {body}");
        let (stranger, _) = put(&["user"]).await?;
        must!(stranger == 403, "in {stamp} somebody who is not of {group} is answered {stranger}");
        if status == 200 {
            let (removed, _) = call(&site.vault("supervisor").await?, "DELETE", &path, Value::Null).await?;
            must!(removed == 200, "removing what was set is answered {removed}");
        }
        seen.push(format!("{stamp}: {status}, another person {stranger}"));
    }
    Ok(format!("a secret set with a token of somebody of `{group}`: {}", seen.join("; ")))
}
