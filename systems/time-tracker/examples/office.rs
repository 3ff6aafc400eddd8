//! For developers: the whole application on a scratch PostgreSQL, with a sign-in that asks for no password. Ends with Ctrl-C
//! and leaves nothing behind. `cargo run -p time-tracker --example office [ADDRESS]`, then open the address it prints.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for looking, not for serving")]

#[path = "../tests/app/common.rs"]
mod common;

use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let office = common::Office::start_at(&address).await;
    println!("open {} (people: ann, ben, mia manages, ada administers)", office.url);
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
