//! Images of a stamp's services: built from the program that is declared, pushed into the stamp's registry; and what the
//! registries have to tell.

use std::{sync::Arc, time::Duration};

use api::{
    Secret,
    client::{Client, Target},
    registry::{AUDIENCE, RegistryStatus, TOKEN_USER},
    supervisor::{BuildRequest, Built},
};
use base64::Engine as _;
use bytes::Bytes;
use model::{
    Kind, Resource, ResourceId, System,
    resource::{BuildTag, Registry, Service, Source},
};
use serde_json::{Value, json};

use crate::{
    Error,
    authority::Authority,
    compose::OPERATOR,
    files::digest,
    journal::StampRow,
    layout::Layout,
    reconcile::{blocking, composer, resolve},
    secrets,
    stamp::Ground,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A program of a hundred megabytes, on a busy machine.
const PUSH_WITHIN: Duration = Duration::from_secs(120);

/// What `stamp status` notes of a registry; nothing where there is nothing to do.
pub async fn note(layout: &Layout, workload: &str) -> String {
    let client = Client::unix(layout.control(workload)).timeout(Duration::from_secs(2));
    match client.get::<RegistryStatus>("/status").await {
        Ok(status) => status.warnings.join("; "),
        Err(_) => "it does not say how it stands".into(),
    }
}

/// Builds an image of a service and pushes it, with the tags that the registry declares for builds.
pub async fn build(ground: &Arc<Ground>, row: &StampRow, request: &BuildRequest) -> Result<Built, Error> {
    let system = resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let (id, service) = service_of(&system, &request.service)?;
    let (registry, declared) = registry_of(&system)?;
    if let Some(release) = request.release.as_ref().filter(|release| !api::registry::is_release(release)) {
        return Err(Error::Asked {
            what: format!("`{release}` is no version of a release"),
            hint: Some("write it as v1.0.0".into()),
        });
    }
    let repository = repository_of(&system, declared, &id);
    let authority = Authority::open(&layout.folder)?;
    let client = client(&layout, &authority, &system, &registry).await?;
    let hub = Hub { client, registry, repository };

    // A tag of seconds is a build's own: two in one second are two seconds apart.
    let (at_ms, stamp) = loop {
        let now = ground.clock.now_ms();
        let stamp = moment(now, "%Y%m%d-%H%M%S");
        if !declared.tags.contains(&BuildTag::Timestamp) || !hub.has(&format!("manifests/{stamp}")).await? {
            break (now, stamp);
        }
        tokio::time::sleep(Duration::from_millis(1000 - u64::try_from(now.rem_euclid(1000)).unwrap_or(0))).await;
    };
    let layer = {
        let (ground, row, system, layout, id, service) =
            (ground.clone(), row.clone(), system.clone(), layout.clone(), id.clone(), service.clone());
        blocking(move || layer(&ground, &row, &system, &layout, &id, &service)).await?
    };
    let (layer_digest, layer_bytes) = (format!("sha256:{}", digest(&layer.tar)), layer.tar.len());
    let mut labels = json!({
        "org.opencontainers.image.created": moment(at_ms, "%Y-%m-%dT%H:%M:%SZ"),
        "org.opencontainers.image.title": id.name,
    });
    if let Some(release) = &request.release {
        labels["org.opencontainers.image.version"] = release.as_str().into();
    }
    let config = json!({
        "created": moment(at_ms, "%Y-%m-%dT%H:%M:%SZ"),
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": layer.entrypoint, "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let config = Bytes::from(config.to_string());
    let config_digest = format!("sha256:{}", digest(&config));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": layer_digest, "size": layer_bytes }],
    });
    let manifest = Bytes::from(manifest.to_string());
    hub.blob(&layer_digest, layer.tar).await?;
    hub.blob(&config_digest, config).await?;

    // `latest` comes last: what it leads to has all its other names already.
    let mut tags: Vec<String> = request.release.iter().cloned().collect();
    tags.extend(declared.tags.contains(&BuildTag::Timestamp).then_some(stamp));
    tags.extend(declared.tags.contains(&BuildTag::Latest).then(|| "latest".to_owned()));
    for tag in &tags {
        hub.put(&format!("manifests/{tag}"), MANIFEST, manifest.clone()).await?;
    }
    Ok(Built {
        registry: hub.registry.to_string(),
        repository: hub.repository,
        digest: format!("sha256:{}", digest(&manifest)),
        tags,
        bytes: layer_bytes as u64,
        at_ms,
    })
}

fn service_of(system: &System, wanted: &str) -> Result<(ResourceId, Service), Error> {
    let id: ResourceId = wanted.parse().unwrap_or_else(|_| ResourceId::new(Kind::Service, wanted));
    match system.resources.get(&id) {
        Some(Resource::Service(service)) => Ok((id, service.clone())),
        _ => {
            let known: Vec<String> = system.services().map(|(id, _)| id.name.clone()).collect();
            Err(Error::Asked {
                what: format!("there is no service `{wanted}` in {}", system.name),
                hint: Some(format!("one of: {}", known.join(", "))),
            })
        }
    }
}

fn registry_of(system: &System) -> Result<(ResourceId, &Registry), Error> {
    let found = system.resources.iter().find_map(|(id, resource)| match resource {
        Resource::Registry(registry) => Some((id.clone(), registry)),
        _ => None,
    });
    found.ok_or_else(|| Error::Asked {
        what: format!("{} has no registry to push an image into", system.name),
        hint: Some("add `[registry.main]` to system.toml".into()),
    })
}

/// The repository that is watched for the service, else one of its name.
fn repository_of(system: &System, registry: &Registry, service: &ResourceId) -> String {
    let watched = registry.on_push.iter().find(|watch| watch.to == *service);
    let name = watched.and_then(|watch| watch.image.split(':').next());
    name.map_or_else(|| format!("{}/{}", system.name, service.name), str::to_owned)
}

/// A moment of UTC.
fn moment(ms: i64, form: &str) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.strftime(form).to_string()).unwrap_or_default()
}

struct Layer {
    tar: Bytes,
    entrypoint: Vec<String>,
}

/// The service's program in a layer of its own, `/app/PROGRAM`. The same program gives the same bytes.
fn layer(
    ground: &Ground,
    row: &StampRow,
    system: &System,
    layout: &Layout,
    id: &ResourceId,
    service: &Service,
) -> Result<Layer, Error> {
    let not_one = |why: &str| Error::NotBuilt(format!("an image of {id} ({why})"));
    let Source::Run(run) = &service.program.source else { return Err(not_one("it is one already")) };
    let composer = composer(ground, row, system, layout, true);
    if service.program.directory.is_some() {
        return Err(not_one("it runs files of a folder"));
    }
    let Some((program, arguments)) = run.split_first() else { return Err(not_one("it runs nothing")) };
    let path = composer.find_program(&id.to_string(), program)?;
    let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
    let name = program.rsplit('/').next().unwrap_or(program);
    let mut tar = Vec::with_capacity(content.len() + 4096);
    entry(&mut tar, "app/", 0o755, b'5', &[])?;
    entry(&mut tar, &format!("app/{name}"), 0o755, b'0', &content)?;
    // Two empty blocks end an archive.
    tar.extend([0; 1024]);
    let mut entrypoint = vec![format!("/app/{name}")];
    entrypoint.extend_from_slice(arguments);
    Ok(Layer { tar: tar.into(), entrypoint })
}

/// One entry of a tar archive (POSIX.1-2001, ustar): owned by root, of the beginning of time.
fn entry(tar: &mut Vec<u8>, name: &str, mode: u32, kind: u8, content: &[u8]) -> Result<(), Error> {
    if name.len() > 100 || content.len() >= 1 << 33 {
        return Err(Error::NotBuilt(format!("an image with a file like `{name}`, too long or too large,")));
    }
    let mut head = [0_u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}\0"));
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(257, "ustar\0");
    put(263, "00");
    head[156] = kind;
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(head);
    tar.extend(content);
    tar.extend(std::iter::repeat_n(0, content.len().next_multiple_of(512) - content.len()));
    Ok(())
}

/// A client of a registry that speaks as the operator: its token of the directory, exchanged.
async fn client(
    layout: &Layout,
    authority: &Authority,
    system: &System,
    registry: &ResourceId,
) -> Result<Client, Error> {
    let identity = system.resources.keys().find(|id| id.kind == Kind::Identity).ok_or_else(|| Error::Asked {
        what: format!("{registry} needs an identity, and the manifest declares none"),
        hint: Some("add `[identity.main]` to system.toml".into()),
    })?;
    let token = secrets::token(layout, authority, system, identity, OPERATOR, AUDIENCE).await?;
    let tls = api::client::trust(authority.ca_pem.as_bytes()).map_err(|e| Error::Fault(e.to_string()))?;
    let url = layout.url(registry)?;
    let base = url.parse().map_err(|_| Error::Fault(format!("{url} is not a URL")))?;
    let client = Client::new(Target::Https { base, tls, hosts: Arc::new(layout.hosts(system)?) }).timeout(PUSH_WITHIN);
    let form =
        Secret::new(format!("grant_type=access_token&service=registry&access_token={}", token.access_token.expose()));
    let form = ("application/x-www-form-urlencoded", Bytes::copy_from_slice(form.expose().as_bytes()));
    let failed = |source| Error::Role {
        resource: registry.to_string(),
        what: "exchange a token".into(),
        source: Box::new(source),
    };
    let answer = client.send("POST", "/oauth2/exchange", Some(form)).await.map_err(failed)?;
    let body: Value = client.read(answer).map_err(failed)?;
    let refresh = Secret::new(body["refresh_token"].as_str().unwrap_or_default());
    let pair = Secret::new(format!("{TOKEN_USER}:{}", refresh.expose()));
    let basic = Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.expose())));
    Ok(client.header(http::header::AUTHORIZATION, basic.expose()))
}

/// One repository.
struct Hub {
    client: Client,
    registry: ResourceId,
    repository: String,
}

impl Hub {
    fn failed(&self, what: &str) -> impl FnOnce(api::WireError) -> Error {
        let (resource, what) = (self.registry.to_string(), format!("{what} {}", self.repository));
        move |source| Error::Role { resource, what, source: Box::new(source) }
    }

    async fn has(&self, what: &str) -> Result<bool, Error> {
        let path = format!("/v2/{}/{what}", self.repository);
        let answer = self.client.send("HEAD", &path, None).await.map_err(self.failed("look into"))?;
        Ok(answer.status.is_success())
    }

    async fn blob(&self, digest: &str, content: Bytes) -> Result<(), Error> {
        if self.has(&format!("blobs/{digest}")).await? {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/uploads/?digest={digest}", self.repository);
        let body = Some(("application/octet-stream", content));
        let answer = self.client.send("POST", &path, body).await.map_err(self.failed("push into"))?;
        self.client.read::<Value>(answer).map(drop).map_err(self.failed("push into"))
    }

    async fn put(&self, what: &str, kind: &str, content: Bytes) -> Result<(), Error> {
        let path = format!("/v2/{}/{what}", self.repository);
        let answer = self.client.send("PUT", &path, Some((kind, content))).await.map_err(self.failed("push into"))?;
        self.client.read::<Value>(answer).map(drop).map_err(self.failed("push into"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_whole_blocks_and_sums_that_fit() {
        let mut tar = Vec::new();
        entry(&mut tar, "app/", 0o755, b'5', &[]).unwrap();
        entry(&mut tar, "app/web", 0o755, b'0', &[7; 513]).unwrap();
        assert_eq!(tar.len(), 512 + 512 + 1024);
        for head in [&tar[..512], &tar[512..1024]] {
            let said = u32::from_str_radix(std::str::from_utf8(&head[148..154]).unwrap(), 8).unwrap();
            let sum: u32 =
                head.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
            assert_eq!(said, sum);
        }
        assert!(entry(&mut tar, &"x".repeat(101), 0o755, b'0', &[]).is_err());
    }

    #[test]
    fn a_moment_is_written_as_a_tag() {
        assert_eq!(moment(1_795_341_600_000, "%Y%m%d-%H%M%S").len(), 15);
        assert_eq!(moment(0, "%Y%m%d-%H%M%S"), "19700101-000000");
    }
}
