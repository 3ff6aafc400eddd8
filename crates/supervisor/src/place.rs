//! Places, ends and adopts workloads. Blocking: called off the runtime's threads.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use api::{
    Secret, Secrets,
    context::secret,
    database_token,
    shim::{Ask, WorkloadState},
};
use drivers::{At, Listen, Placement, ProcessId};

use crate::{
    Error, authority::Authority, border, compose::Composed, files, home::make_for, journal::Wanted, layout::Layout,
    renew, shims, stamp::Ground,
};

/// Beyond a workload's own grace: the time a shim takes to end after it.
const SHIM_GRACE: Duration = Duration::from_secs(3);

/// The two digests of a workload as they are kept in the journal.
pub fn digests(composed: &Composed) -> String {
    format!("{} {}", composed.digest(), composed.role_digest())
}

/// Makes the workload run as composed; one that already does is adopted. Returns what isolation is missing.
pub fn place(
    ground: &Ground,
    layout: &Layout,
    authority: &Authority,
    composed: &Composed,
) -> Result<Vec<String>, Error> {
    let workload = composed.workload.as_str();
    // Who ends workloads first writes down that they are to end, then waits for those who place: nothing comes after.
    let state = ground.stamp(&layout.system, &layout.stamp);
    let _placing = state.placing.read().unwrap_or_else(PoisonError::into_inner);
    if ground.journal.stamp(&layout.system, &layout.stamp)?.is_some_and(|row| row.wanted != Wanted::Up) {
        return Err(Error::Interrupted(workload.into()));
    }
    let wanted = digests(composed);
    if let Some(status) = shims::ask(&layout.shim_socket(workload), &Ask::Status) {
        // Placed by one that died before it wrote so down, or by an earlier self.
        let row = ground.journal.workload(&layout.system, &layout.stamp, workload)?;
        if row.is_some_and(|row| row.digest == wanted)
            && let Some(id) = ground.driver.identify(status.shim_pid)
        {
            ground.journal.placed(&layout.system, &layout.stamp, workload, Some(id), &wanted)?;
            return Ok(Vec::new());
        }
        stop(ground, layout, workload)?;
    }
    let user = layout.user(workload);
    let mark = layout.mark(workload);
    let driver = ground.driver.as_ref();
    if !composed.shim.keep_orphans {
        driver.kill(&mark, user).map_err(|source| Error::Place { workload: workload.into(), source })?;
    }
    write_files(ground, layout, composed)?;
    if let Some((bin, template)) = &composed.template {
        make_template(ground, workload, bin, template)?;
    }
    let secrets = secrets(ground, layout, authority, composed)?;
    let mut listeners: Vec<Listen> = composed
        .listeners
        .iter()
        .map(|(name, address)| Listen { name: name.clone(), at: At::Inside(*address) })
        .collect();
    listeners.extend(composed.doors.iter().map(|(name, at)| Listen { name: name.clone(), at: At::Tcp(*at) }));
    listeners.push(Listen { name: "shim".into(), at: At::Unix(layout.shim_socket(workload)) });
    if composed.control {
        listeners.push(Listen { name: "control".into(), at: At::Unix(layout.control(workload)) });
    }
    let (volume, lacks) = match crate::storage::of(ground, layout, composed)? {
        Ok(volume) => (Some(volume), None),
        Err(missing) => (None, missing),
    };
    let place = layout.place(workload);
    // The digest goes first: whoever finds the shim's socket then knows what it was started with.
    ground.journal.placed(&layout.system, &layout.stamp, workload, None, &wanted)?;
    let placement = Placement {
        mark,
        program: ground.stamp_binary.clone(),
        arguments: vec![
            "serve".into(),
            "shim".into(),
            "--config".into(),
            place.join("shim.json").display().to_string(),
        ],
        environment: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("LANG".into(), "C.UTF-8".into())],
        directory: place.join("data"),
        user,
        listeners,
        secrets: secrets.encode().expose().as_bytes().to_vec(),
        network: layout.namespace(workload),
        hosts_file: Some(layout.hosts_file()),
        limits: composed.limits,
        volume,
        shares: composed.shares.clone(),
        log: Some(place.join("shim.log")),
    };
    let mut placed = driver.place(placement).map_err(|source| Error::Place { workload: workload.into(), source })?;
    ground.journal.placed(&layout.system, &layout.stamp, workload, Some(placed.id), &wanted)?;
    placed.missing.extend(lacks);
    Ok(placed.missing)
}

/// Writes what a workload reads.
pub fn write_files(ground: &Ground, layout: &Layout, composed: &Composed) -> Result<(), Error> {
    let workload = composed.workload.as_str();
    let user = layout.user(workload);
    let place = layout.place(workload);
    let failed = |path: &std::path::Path| Error::file("make", path.to_owned());
    crate::home::make(&layout.sockets, 0o711).map_err(failed(&layout.sockets))?;
    crate::home::make(&place, 0o711).map_err(failed(&place))?;
    for (name, mode) in [("data", 0o700), ("log", 0o700)] {
        let folder = place.join(name);
        make_for(&folder, mode, user).map_err(failed(&folder))?;
    }
    if composed.sockets {
        let folder = layout.sockets.join(format!("{workload}.d"));
        make_for(&folder, 0o700, user).map_err(failed(&folder))?;
    }
    for folder in &composed.folders {
        // Those above it are passed through only.
        for above in folder.ancestors().skip(1).take_while(|a| a.starts_with(ground.home.root())) {
            if !above.exists() {
                crate::home::make(above, 0o711).map_err(failed(above))?;
            }
        }
        make_for(folder, 0o755, user).map_err(failed(folder))?;
    }
    let shim = serde_json::to_vec_pretty(&composed.shim).map_err(|e| Error::Fault(e.to_string()))?;
    let path = place.join("shim.json");
    files::write(&path, &shim, 0o600, user).map_err(Error::file("write", &path))?;
    if let Some(role) = &composed.role {
        let path = place.join(composed.role_file);
        let filled = crate::redis::filled(layout, composed, role)?;
        files::write(&path, filled.as_deref().unwrap_or(role), 0o600, user).map_err(Error::file("write", &path))?;
    }
    crate::lead::hand_out(ground, layout, workload)
}

/// Writes down which process a running workload is. One whose supervisor died between placing and writing is known by its
/// socket alone, and its end would not be noticed.
pub fn adopt(ground: &Ground, layout: &Layout, workload: &str) -> Result<(), Error> {
    let row = layout.row(workload)?;
    if row.shim.is_some_and(|id| ground.driver.runs(id)) {
        return Ok(());
    }
    let status = shims::ask(&layout.shim_socket(workload), &Ask::Status);
    let Some(id) = status.and_then(|s| ground.driver.identify(s.shim_pid)) else { return Ok(()) };
    ground.journal.placed(&layout.system, &layout.stamp, workload, Some(id), &row.digest)
}

/// Hands a running role its new file.
pub fn reload(ground: &Ground, layout: &Layout, composed: &Composed) -> Result<(), Error> {
    write_files(ground, layout, composed)?;
    if composed.ready == crate::compose::Ready::Redis {
        // It ignores the signal by which roles are told.
        crate::redis::load_users(layout, &composed.workload)?;
    }
    let status = shims::ask(&layout.shim_socket(&composed.workload), &Ask::Reload);
    let shim = match status.and_then(|s| ground.driver.identify(s.shim_pid)) {
        Some(id) => Some(id),
        None => layout.row(&composed.workload)?.shim,
    };
    ground.journal.placed(&layout.system, &layout.stamp, &composed.workload, shim, &digests(composed))
}

/// The keys a workload is handed.
pub fn secrets(ground: &Ground, layout: &Layout, authority: &Authority, composed: &Composed) -> Result<Secrets, Error> {
    let mut secrets = Secrets::default();
    for (name, key) in &composed.keys {
        // `ship:RESOURCE` derives from the audit root, and a keeper gets the public half of what identity signs with; every
        // other key is a root of its own.
        let value = if key.starts_with("ship:") {
            authority.key("audit-root")?.derive(key)
        } else if *name == secret::DATABASE_TOKENS {
            Secret::new(database_token::Signer::new(&authority.key(key)?).public_key())
        } else {
            authority.key(key)?
        };
        secrets.insert(*name, value);
    }
    if composed.shim.identity.is_some() {
        let key = authority.key("identity-root")?.derive(&format!("workload:{}", composed.shim.resource));
        secrets.insert(secret::WORKLOAD_KEY, key);
    }
    for (setting, of) in &composed.shim.link_keys {
        if let Some(key) = border::key(&ground.home, &layout.system, (&layout.stamp, authority), of)? {
            secrets.insert(setting, key);
        }
    }
    if composed.shim.telemetry.is_some() {
        secrets.insert(secret::INGEST_KEY, ingest_key(authority, &composed.shim.resource)?);
    }
    if !composed.tls_names.is_empty() {
        let (cert, key) = renew::issue(ground, layout, authority, &composed.workload, &composed.tls_names)?;
        secrets.insert(secret::TLS_CERT, cert);
        secrets.insert(secret::TLS_KEY, key);
    }
    Ok(secrets)
}

/// The key with which `resource` sends telemetry.
pub fn ingest_key(authority: &Authority, resource: &str) -> Result<Secret, Error> {
    Ok(authority.key("telemetry-root")?.derive(&format!("ingest:{resource}")))
}

/// The data that a database begins as, made once an engine.
fn make_template(
    ground: &Ground,
    workload: &str,
    bin: &std::path::Path,
    template: &std::path::Path,
) -> Result<(), Error> {
    if template.join("PG_VERSION").exists() {
        return Ok(());
    }
    let _alone = ground.templates.lock().unwrap_or_else(PoisonError::into_inner);
    if template.join("PG_VERSION").exists() {
        return Ok(());
    }
    let log = ground.home.root().join("template.log");
    let mark = format!("{}/template", ground.home.hash());
    let placement = Placement {
        mark: mark.clone(),
        program: ground.stamp_binary.clone(),
        arguments: vec![
            "serve".into(),
            "template".into(),
            "--bin".into(),
            bin.display().to_string(),
            "--to".into(),
            template.display().to_string(),
        ],
        environment: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("LANG".into(), "C.UTF-8".into())],
        directory: "/".into(),
        user: None,
        listeners: Vec::new(),
        secrets: Vec::new(),
        network: None,
        hosts_file: None,
        limits: drivers::Limits::default(),
        volume: None,
        shares: Vec::new(),
        log: Some(log.clone()),
    };
    let placed = ground.driver.place(placement).map_err(|source| Error::Place { workload: workload.into(), source })?;
    let until = Instant::now() + Duration::from_secs(60);
    while ground.driver.runs(placed.id) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Nothing of it is left, its control group neither.
    ground.driver.kill(&mark, None).map_err(|source| Error::Place { workload: workload.into(), source })?;
    if template.join("PG_VERSION").exists() {
        return Ok(());
    }
    let tail = std::fs::read_to_string(&log).unwrap_or_default();
    let tail = tail.lines().rev().take(10).map(str::to_owned).collect::<Vec<_>>().into_iter().rev().collect();
    Err(Error::KeepsEnding { workload: workload.into(), how: "initdb failed".into(), tail })
}

/// Ends a workload in order: its stop signal, its grace, then kill; nothing of it is left.
pub fn stop(ground: &Ground, layout: &Layout, workload: &str) -> Result<(), Error> {
    let socket = layout.shim_socket(workload);
    let user = layout.user(workload);
    let mark = layout.mark(workload);
    if let Some(status) = shims::ask(&socket, &Ask::Stop) {
        let shim = ground.driver.identify(status.shim_pid);
        let grace = if workload.starts_with("postgres") || workload.starts_with("redis") {
            Duration::from_secs(60)
        } else {
            Duration::from_secs(10)
        };
        let until = Instant::now() + grace + SHIM_GRACE;
        while let Some(shim) = shim
            && ground.driver.runs(shim)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    ground.driver.kill(&mark, user).map_err(|source| Error::Place { workload: workload.into(), source })?;
    for path in [socket, layout.control(workload)] {
        // Not there is as good as removed.
        let _ = std::fs::remove_file(path);
    }
    let digest = layout.row(workload).map(|r| r.digest.clone()).unwrap_or_default();
    let note = || ground.journal.placed(&layout.system, &layout.stamp, workload, None, &digest);
    if note().is_err() {
        // The disk is full: the ballast is there for this. A stop that cannot be written down is a stop all the same: what
        // the journal then says ran is seen not to.
        let _ = std::fs::remove_file(ground.home.ballast());
        if let Err(error) = note() {
            tracing::warn!(workload, error = crate::error::chain(&error), "could not write down that it was stopped");
        }
    }
    Ok(())
}

/// What a placed workload is now.
pub fn observe(ground: &Ground, layout: &Layout, composed: &Composed) -> Option<model::plan::Seen> {
    use model::plan::Seen;
    let row = layout.row(&composed.workload).ok()?;
    let runs = |id: ProcessId| ground.driver.runs(id);
    let alive = row.shim.is_some_and(runs)
        || shims::ask(&layout.shim_socket(&composed.workload), &Ask::Status)
            .is_some_and(|s| s.state != WorkloadState::Stopped);
    if !alive {
        return None;
    }
    let (process, role) = row.digest.split_once(' ').unwrap_or((&row.digest, ""));
    Some(if process != composed.digest() {
        Seen::Changed
    } else if role != composed.role_digest() {
        Seen::Reload
    } else {
        Seen::Same
    })
}
