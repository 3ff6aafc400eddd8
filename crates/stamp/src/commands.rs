//! The verbs, a file each.

mod audit;
mod backup;
mod build;
mod doctor;
mod down;
mod drill;
mod exec;
mod explain;
mod failover;
mod init;
mod job;
mod logs;
mod network;
mod open;
mod people;
mod plan;
mod prove;
mod query;
mod restore;
mod serve;
mod status;
mod token;
mod traces;
mod up;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{
    arguments::{Arguments, AuditVerb, JobVerb, SecretVerb, UserVerb, Verb},
    screen,
};

/// Carries a verb out.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    // Without a runtime: these make their own, or need none.
    let verb = match arguments.verb {
        Verb::Serve { role } => return serve::run(role),
        Verb::Doctor => return doctor::run(json),
        Verb::Init { folder } => return init::run(&folder, json),
        Verb::Explain { code } => return explain::run(&code, json),
        Verb::Schema => return explain::schema(),
        Verb::Plan { of } => return plan::run(&of, json),
        Verb::Audit { verb: AuditVerb::Verify { system, stamp } } => return audit::verify(&system, &stamp, json),
        verb => verb,
    };
    service::tls::install_provider();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start the runtime")?;
    runtime.block_on(async {
        match verb {
            Verb::Up { of } => up::run(&of, json).await,
            Verb::Prove { of } => prove::run(&of, json).await,
            Verb::Drill { of } => drill::run(&of, json).await,
            Verb::Probe { asks } => {
                screen::data(&::prove::inside::answer(&asks).await);
                Ok(ExitCode::SUCCESS)
            }
            Verb::Failover { of, resource, accept_loss } => {
                failover::run(&of, resource, failover::How::Now { accept_loss }, json).await
            }
            Verb::Switchover { of, resource } => failover::run(&of, resource, failover::How::InOrder, json).await,
            Verb::Down { of } => down::run(&of, json).await,
            Verb::Destroy { of, yes } => down::destroy(&of, yes, json).await,
            Verb::Status { system, stamp } => status::run(system.as_deref(), &stamp, json).await,
            Verb::Logs { of, resource, follow, grep, since, lines } => {
                logs::run(&of, logs::Ask { resource, follow, grep, since, lines }, json).await
            }
            Verb::Traces { of, id, lines } => traces::run(&of, id.as_deref(), lines, json).await,
            Verb::Query { of, sql, days, lines } => query::run(&of, sql, days, lines, json).await,
            Verb::Open { of, resource } => open::run(&of, &resource, json).await,
            Verb::Job { verb: JobVerb::List { of } } => job::list(&of, json).await,
            Verb::Job { verb: JobVerb::Run { of, name } } => job::run(&of, &name, json).await,
            Verb::Job { verb: JobVerb::Runs { of, name } } => job::runs(&of, name.as_deref(), json).await,
            Verb::Network { of, verb } => network::run(&of, verb, json).await,
            Verb::Exec { of, service, command } => exec::run(&of, service, command).await,
            Verb::Build { of, service, release } => build::run(&of, service, release, json).await,
            Verb::Secret { verb: SecretVerb::Show { of, name, vault } } => {
                people::show_secret(&of, name, vault, json).await
            }
            Verb::Token { of, resource } => token::run(&of, &resource, json).await,
            Verb::Secret { verb: SecretVerb::Set { of, name, vault } } => {
                people::set_secret(&of, name, vault, json).await
            }
            Verb::Secret { verb: SecretVerb::Rotate { of, name, vault } } => {
                people::rotate_secret(&of, name, vault, json).await
            }
            Verb::Backup { of, resource, point } => backup::run(&of, resource, point, json).await,
            Verb::Backups { of, resource, verify: true } => restore::verify(&of, resource, json).await,
            Verb::Backups { of, resource, verify: false } => backup::list(&of, resource, json).await,
            Verb::Restore { of, how } => restore::run(&of, how, json).await,
            Verb::User { verb: UserVerb::Add { of, email, name, groups } } => {
                people::add(&of, email, name, groups, json).await
            }
            Verb::User { verb: UserVerb::Groups { of, email, groups } } => {
                people::groups(&of, email, groups, json).await
            }
            Verb::Audit { verb: AuditVerb::Acts { system, stamp, lines } } => {
                audit::acts(system.as_deref(), stamp.as_deref(), lines, json).await
            }
            Verb::Audit { verb: AuditVerb::Show { of, actor, lines } } => audit::show(&of, actor, lines, json).await,
            Verb::Serve { .. }
            | Verb::Doctor
            | Verb::Init { .. }
            | Verb::Explain { .. }
            | Verb::Schema
            | Verb::Plan { .. } => Ok(ExitCode::SUCCESS),
            Verb::Audit { verb: AuditVerb::Verify { .. } } => Ok(ExitCode::SUCCESS),
        }
    })
}
