//! Nothing goes wrong: what is promised must hold in the healthy cluster first.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "none",
    story: "nothing goes wrong",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(None),
};

struct None;

#[async_trait(?Send)]
impl Fault for None {
    fn hold(&self) -> Duration {
        secs(4)
    }

    async fn inject(&mut self, _: &mut Stage) -> Result<Effect, String> {
        Ok(Effect::on(Vec::new()))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        Confirmed::Installed
    }

    async fn heal(&mut self, _: &mut Stage) {}
}
