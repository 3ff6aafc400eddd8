//! What the members of a graph store and their monitor are started with.

use api::{
    context::secret,
    graph::{BOLT, GraphConfig, GraphMember, GraphRight, GraphUser},
};
use model::resource::Graph;

use super::*;

/// The name of the graph, as drivers ask for it when they name none.
pub const DATABASE: &str = "neo4j";
/// Members choose who leads, and a follower is copied from it.
const MEMBER_WITHIN: Duration = Duration::from_secs(180);

impl Composer<'_> {
    pub(super) fn graph(&self, id: &ResourceId, graph: &Graph, workload: &str) -> Result<Composed, Error> {
        let watches = model::plan::watches(workload);
        let engines = self.home.engines();
        let bin = match watches {
            true => None,
            false => Some(api::engine::graph(&engines).ok_or_else(|| Error::NoGraphEngine {
                workload: workload.to_owned(),
                looked: engines.display().to_string(),
            })?),
        };
        let members = self.graph_members(id, graph)?;
        let mut peers: Vec<String> = members.iter().map(|m| m.server_name.clone()).collect();
        peers.push(self.layout.monitor_name(id));
        let right = |right| match right {
            model::resource::GraphRight::Read => GraphRight::Read,
            model::resource::GraphRight::Write => GraphRight::Write,
        };
        let users = graph.access.iter().map(|a| GraphUser { name: a.to.to_string(), right: right(a.right) });
        let socket_dir = self.layout.sockets.join(format!("{workload}.d"));
        let config = GraphConfig {
            bin,
            name: workload.to_owned(),
            members,
            users: if watches { Vec::new() } else { users.collect() },
            database: DATABASE.into(),
            socket_dir: socket_dir.clone(),
            peers,
        };
        let keys = match watches {
            true => Vec::new(),
            false => vec![(secret::GRAPH_ROOT, root_key(id))],
        };
        let own = config.members.iter().find(|m| m.name == workload).map(|m| m.server_name.clone());
        let mut composed = self.role_as(id, workload.to_owned(), "graph", config, false, keys)?;
        composed.start_within = MEMBER_WITHIN;
        composed.shim.stop_grace_ms = 15_000;
        if watches {
            composed.tls_names = vec![self.layout.monitor_name(id)];
            // It asks, and is asked on its socket alone.
            composed.listeners.clear();
        } else {
            composed.tls_names.extend(own);
            // First: it is the address that people are shown.
            composed
                .listeners
                .insert(0, (BOLT.to_owned(), at(self.layout.ip(workload)?, self.layout.port(graph.port))));
            composed.folders.push(socket_dir);
        }
        Ok(composed)
    }

    fn graph_members(&self, id: &ResourceId, graph: &Graph) -> Result<Vec<GraphMember>, Error> {
        let member = |n: u32| {
            let name = model::plan::workload(id, n);
            let ip = self.layout.ip(&name)?;
            let server_name = self.layout.member_name(id, n);
            Ok(GraphMember {
                host: if self.layout.names { server_name.clone() } else { ip.to_string() },
                server_name,
                zone: graph.zone(n),
                address: IpAddr::V4(ip),
                peer_port: self.layout.https_port(Kind::Graph),
                bolt_port: self.layout.port(graph.port),
                name,
            })
        };
        (1..=graph.members).map(member).collect()
    }
}

/// The authority's name of a store's root key.
pub fn root_key(id: &ResourceId) -> String {
    format!("graph-root/{}", id.name)
}

/// How a workload comes in: its name and password at every member, to be tried in turn, over TLS.
pub fn connection_string(
    layout: &Layout,
    authority: &crate::authority::Authority,
    system: &System,
    id: &ResourceId,
    user: &Principal,
) -> Result<api::Secret, Error> {
    let Some(Resource::Graph(graph)) = system.resources.get(id) else {
        return Err(Error::NotBuilt(format!("a connection to {id} of another stamp")));
    };
    let password = api::graph::password(&authority.key(&root_key(id))?, &user.to_string());
    Ok(api::Secret::new(format!("neo4j+s://{user}:{}@{}/{DATABASE}", password.expose(), hosts(layout, id, graph)?)))
}

/// Where the members are, each with its port.
pub fn hosts(layout: &Layout, id: &ResourceId, graph: &Graph) -> Result<String, Error> {
    let host = |n: u32| {
        let name = match layout.names {
            true => layout.member_name(id, n),
            false => layout.ip(&model::plan::workload(id, n))?.to_string(),
        };
        Ok(format!("{name}:{}", layout.port(graph.port)))
    };
    Ok((1..=graph.members).map(host).collect::<Result<Vec<_>, Error>>()?.join(","))
}
