//! For developers: the whole application on a scratch PostgreSQL with a worker and stand-ins, and a sign-in that asks for no
//! password. Ends with Ctrl-C and leaves nothing behind. `cargo run -p donatello --example studio [ADDRESS]`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for looking, not for serving")]

#[path = "../tests/app/common.rs"]
mod common;

use donatello::standin::Manner;
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let studio = common::Studio::start_at(&address).await;
    let slow = Manner { least: 1.0, most: 3.0, ..Manner::default() };
    studio.openai.set(slow.clone());
    studio.replicate.set(slow);
    let worker = studio.worker_of_all().await;
    println!("open {} (people: ann, ben, pia, mia, ola, ada)", studio.url);
    let working = tokio::spawn(async move {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(300));
        loop {
            tick.tick().await;
            if let Err(error) = worker.once().await {
                println!("{error}");
            }
        }
    });
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    working.abort();
}
