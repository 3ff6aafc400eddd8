//! What plays the part of something outside is started with, and what others are told of it.

use model::resource::{External, StandIn};

use super::*;

/// The port at which the stamp's workloads reach it: the real one's where TLS is ended in front of a stand-in, the stand-in's own
/// where it is spoken to plainly.
pub fn port(layout: &Layout, external: &External) -> u16 {
    let real = layout.port(external.port());
    match &external.stand_in {
        None => external.port(),
        Some(part) if !external.is_tls() => layout.port(part.port),
        // Without a network of its own, the front and the program share an address.
        Some(part) if layout.closed.is_none() && real == layout.port(part.port) => {
            real.checked_add(1).unwrap_or(real - 1)
        }
        Some(_) => real,
    }
}

impl Composer<'_> {
    /// A stand-in: a program like a service's, without an identity, since what it plays is not ours.
    pub(super) fn stand_in(&self, id: &ResourceId, part: &StandIn) -> Result<Composed, Error> {
        let Some(Resource::External(external)) = self.system.resources.get(id) else {
            return Err(Error::Fault(format!("{id} is not declared")));
        };
        let workload = id.to_string();
        let mut shim = self.shim(&workload, id, &workload)?;
        shim.identity = None;
        shim.run = self.program(&workload, &part.run)?;
        shim.directory = self.directory(None, &part.run, &workload)?;
        let own = self.layout.port(part.port);
        shim.env = self.environment(&workload, &BTreeMap::new(), Some(own))?;
        let ip = self.layout.ip(&workload)?;
        let (mut listeners, mut tls_names) = (Vec::new(), Vec::new());
        let inner = if external.is_tls() {
            let inner = self.layout.inner(&workload)?;
            shim.front = Some(Front { to: at(inner, own), clients: Vec::new() });
            listeners.push((FRONT.to_owned(), at(ip, port(self.layout, external))));
            tls_names.push(self.layout.name(id));
            inner
        } else {
            shim.env.insert("LISTEN_ADDRESS".into(), ip.to_string());
            shim.env.insert("ASPNETCORE_URLS".into(), format!("http://{ip}:{own}"));
            ip
        };
        Ok(Composed {
            control: !listeners.is_empty(),
            listeners,
            tls_names,
            ready: Ready::Port(at(inner, own)),
            ..Composed::plain(workload, shim)
        })
    }

    /// What an outside part gives out: the stand-in's address in the form of the declared one, or what is declared.
    pub(super) fn external(&self, id: &ResourceId, output: Output) -> Result<String, Error> {
        let Some(Resource::External(external)) = self.system.resources.get(id) else {
            return Err(Error::Fault(format!("{id} is not declared")));
        };
        if external.stand_in.is_none() {
            return Ok(match output {
                Output::Host => external.host().to_owned(),
                Output::Port => external.port().to_string(),
                _ => external.url.clone(),
            });
        }
        let (host, port) = (self.layout.reach(id)?, port(self.layout, external));
        Ok(match output {
            Output::Host => host,
            Output::Port => port.to_string(),
            _ if external.scheme() == "https" => format!("{}{}", crate::layout::https(&host, port), external.path()),
            _ => format!("{}://{host}:{port}{}", external.scheme(), external.path()),
        })
    }
}
