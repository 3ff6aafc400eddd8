//! Azure's Rust SDK against the vault: the whole life of a secret, with a managed identity and no option.

use std::{error::Error, time::Instant};

use azure_core::http::StatusCode;
use azure_identity::ManagedIdentityCredential;
use azure_security_keyvault_secrets::{
    ResourceExt as _, SecretClient,
    models::{
        RestoreSecretParameters, SecretAttributes, SecretClientGetSecretOptions, SecretClientUpdateSecretPropertiesOptions,
        SetSecretParameters, UpdateSecretPropertiesParameters,
    },
};
use futures::TryStreamExt as _;

type Judged<T> = Result<T, Box<dyn Error>>;

fn expect(holds: bool, otherwise: &str) -> Judged<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// The HTTP status with which a call was refused.
fn refused<T>(answer: azure_core::Result<T>) -> Option<StatusCode> {
    answer.err().and_then(|error| error.http_status())
}

/// Sets a value; gives its version.
async fn set(client: &SecretClient, name: &str, value: &str) -> Judged<String> {
    let body = SetSecretParameters { value: Some(value.into()), ..Default::default() };
    let secret = client.set_secret(name, body.try_into()?, None).await?.into_model()?;
    Ok(secret.resource_id()?.version.ok_or("a secret that was set has no version")?)
}

async fn value(client: &SecretClient, name: &str, version: Option<String>) -> azure_core::Result<Option<String>> {
    let options = SecretClientGetSecretOptions { secret_version: version, ..Default::default() };
    Ok(client.get_secret(name, Some(options)).await?.into_model()?.value)
}

async fn enable(client: &SecretClient, name: &str, version: &str, enabled: bool) -> Judged<()> {
    let attributes = SecretAttributes { enabled: Some(enabled), ..Default::default() };
    let body = UpdateSecretPropertiesParameters { secret_attributes: Some(attributes), ..Default::default() };
    let options =
        SecretClientUpdateSecretPropertiesOptions { secret_version: Some(version.into()), ..Default::default() };
    client.update_secret_properties(name, body.try_into()?, Some(options)).await?;
    Ok(())
}

async fn judge() -> Judged<String> {
    let url = std::env::var("KEY_VAULT_URL").map_err(|_| "KEY_VAULT_URL is not set")?;
    let client = SecretClient::new(&url, ManagedIdentityCredential::new(None)?, None)?;
    let name = format!("judge-rust-{}", std::process::id());
    let name = name.as_str();

    let first = set(&client, name, "one").await?;
    let second = set(&client, name, "zwei ✓").await?;
    expect(first != second, "two values have one version")?;
    expect(value(&client, name, None).await?.as_deref() == Some("zwei ✓"), "the latest value is not the one set last")?;
    let older = value(&client, name, Some(first.clone())).await?;
    expect(older.as_deref() == Some("one"), "an older version has not its own value")?;
    let mut versions = Vec::new();
    let mut pages = client.list_secret_properties_versions(name, None)?;
    while let Some(one) = pages.try_next().await? {
        versions.extend(one.resource_id()?.version);
    }
    expect(versions.len() == 2 && versions.contains(&first) && versions.contains(&second), "not both versions are listed")?;

    enable(&client, name, &second, false).await?;
    let answer = value(&client, name, Some(second.clone())).await;
    expect(refused(answer) == Some(StatusCode::Forbidden), "a disabled version was given out")?;
    enable(&client, name, &second, true).await?;

    let backup = client.backup_secret(name, None).await?.into_model()?.value.ok_or("a backup is empty")?;
    client.delete_secret(name, None).await?;
    let answer = value(&client, name, None).await;
    expect(refused(answer) == Some(StatusCode::NotFound), "a deleted secret was given out")?;
    client.get_deleted_secret(name, None).await?;
    client.recover_deleted_secret(name, None).await?;
    expect(value(&client, name, None).await?.as_deref() == Some("zwei ✓"), "a recovered secret has another value")?;

    client.delete_secret(name, None).await?;
    client.purge_deleted_secret(name, None).await?;
    expect(refused(client.get_deleted_secret(name, None).await) == Some(StatusCode::NotFound), "a purged secret is there")?;
    let body = RestoreSecretParameters { secret_backup: Some(backup) };
    client.restore_secret(body.try_into()?, None).await?;
    expect(value(&client, name, None).await?.as_deref() == Some("zwei ✓"), "a restored secret has another value")?;
    expect(value(&client, name, Some(first)).await?.as_deref() == Some("one"), "a restored secret lost a version")?;
    client.delete_secret(name, None).await?;
    client.purge_deleted_secret(name, None).await?;

    let strange = value(&client, "never-set", None).await;
    expect(refused(strange) == Some(StatusCode::NotFound), "a secret that was never set was given out")?;
    Ok("set, versions, disable, backup, delete, recover, purge, restore".into())
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let started = Instant::now();
    match judge().await {
        Ok(said) => {
            println!("{said}; {} ms", started.elapsed().as_millis());
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
