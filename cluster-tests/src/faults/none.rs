//! Nothing goes wrong: what is promised must hold in the healthy cluster first.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, LocalBoxFuture};

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "none",
    story: "nothing goes wrong",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(None),
};

struct None;

impl Fault for None {
    fn hold(&self) -> Duration {
        secs(4)
    }

    fn inject<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Result<Effect, String>> {
        let effect = Effect { majority: true, ..Effect::default() };
        future::ready(Ok(effect)).boxed_local()
    }

    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        future::ready(Confirmed::Installed).boxed_local()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        future::ready(()).boxed_local()
    }
}
