//! Who signs in to a database by identity must have one, and signs in so to all of that server.

use super::read::Reader;
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, Principal},
    resource::SignIn,
    system::System,
};

pub(crate) fn check(r: &Reader<'_>, system: &System) {
    let has_identity = system.resources.keys().any(|id| id.kind == Kind::Identity);
    for (id, postgres) in system.databases() {
        let span = || r.span(&[id.kind.word(), &id.name, "access"]);
        for (n, access) in postgres.access.iter().enumerate() {
            if let Some(other) = postgres.access[..n].iter().find(|a| a.to == access.to && a.sign_in != access.sign_in)
            {
                let message = format!(
                    "`{}` signs in to `{id}` by identity in one of `{}` and `{}`, and by password in the other",
                    access.to, other.database, access.database
                );
                let fault = Diagnostic::new(Code::S0116, span(), message);
                r.fault(fault.note("it has one role on a server").hint("give both the same `sign_in`"));
            }
            if access.sign_in != SignIn::Identity {
                continue;
            }
            if matches!(access.to, Principal::Group(_)) {
                let message = format!("`{}` cannot sign in to `{id}` by identity: it is no workload", access.to);
                let fault = Diagnostic::new(Code::S0116, span(), message);
                r.fault(fault.hint("workloads and their migrations can, such as `service.web`"));
            } else if let Principal::Workload(who) | Principal::Migrate(who) = &access.to
                && system.resources.contains_key(who)
                && !system.needs(who).contains(id)
            {
                let message = format!("`{}` signs in to `{id}`, and does not need it", access.to);
                let fault = Diagnostic::new(Code::S0116, span(), message)
                    .note("`needs` says what is started first and whom a workload may talk to");
                r.fault(fault.hint(format!("add \"{id}\" to `needs` of `[{who}]`")));
            }
            if !has_identity {
                let message = format!("`{}` signs in to `{id}` by identity, and the stamp has none", access.to);
                r.fault(Diagnostic::new(Code::S0116, span(), message).hint("add `[identity.main]`"));
            }
        }
    }
}
