//! From the role's configuration to a kept member, or to a monitor.

use std::sync::Arc;

use api::{
    context::secret,
    graph::{BOLT, GraphConfig},
};
use service::{Context, Limits, Listener};
use tokio::net::TcpListener;

use crate::{Error, bolt, http, member::Keeper, monitor::Monitor, peer, peer::Links, tools::Engine};

/// Keeps one member, or watches all, until `context.shutdown` is asked for; then ends the engine and returns.
///
/// # Errors
/// What no further try would mend: a configuration that is refused, a missing secret or listener. An engine that does not
/// start is tried again for ever, and its reason is in `/health`.
pub async fn run(config: GraphConfig, mut context: Context) -> Result<(), Error> {
    let control = context.listeners.take("control").ok_or(Error::Missing("the listener `control`"))?;
    let links = Links::new(context.client_tls()?);
    let shutdown = context.shutdown.clone();
    let limits = Limits { connections: 32, body_bytes: 64 * 1024, ..Limits::default() };
    let Some(bin) = config.bin.clone() else {
        let monitor = Arc::new(Monitor::default());
        let routes = context.renewable(http::of_monitor(monitor.clone()));
        return tokio::select! {
            ended = service::serve(control, None, routes, limits, shutdown.clone()) => ended.map_err(Error::Listen),
            () = monitor.watch(&config, &links, &shutdown) => Ok(()),
        };
    };
    let root = context.secrets.take(secret::GRAPH_ROOT).ok_or(Error::Missing(secret::GRAPH_ROOT))?;
    let sessions = listener(&mut context, BOLT)?;
    let peers = listener(&mut context, "https")?;
    // On the loopback of the workload's own network: only its engine comes here.
    let tunnel = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::Listen)?;
    let tunnel_port = tunnel.local_addr().map_err(Error::Listen)?.port();
    let engine = Engine { bin, data: context.data.join("engine"), socket: config.socket_dir.join("engine.sock") };
    let to_clients = context.server_tls(&[], false)?;
    // The same certificate, so that it is renewed with the other.
    let certificate = context.shown.get().cloned().ok_or(Error::Missing(secret::TLS_KEY))?;
    let to_peers = service::tls::showing_to(certificate, &context.ca_pem, &config.peers)?;
    let keeper = Keeper::new(config, engine, root, links, tunnel_port)?;
    keeper.write_engine()?;
    let routes = context.renewable(http::of_member(keeper.clone()));
    tokio::select! {
        ended = service::serve(control, None, routes, limits, service::Shutdown::default()) => ended.map_err(Error::Listen),
        error = bolt::answer(sessions, to_clients, keeper.clone()) => Err(Error::Listen(error)),
        error = peer::answer(peers, to_peers, keeper.clone()) => Err(Error::Listen(error)),
        error = keeper.lead_engine_on(tunnel) => Err(Error::Listen(error)),
        () = keeper.keep_engine(&shutdown) => Ok(()),
        () = endless(keeper.live(&shutdown)) => Ok(()),
    }
}

/// The end of the engine is what is waited for.
async fn endless(task: impl Future<Output = ()>) {
    task.await;
    std::future::pending().await
}

fn listener(context: &mut Context, name: &'static str) -> Result<TcpListener, Error> {
    match context.listeners.take(name) {
        Some(Listener::Tcp(listener)) => {
            listener.set_nonblocking(true).map_err(Error::Listen)?;
            TcpListener::from_std(listener).map_err(Error::Listen)
        }
        _ => Err(Error::Missing("a listener")),
    }
}
