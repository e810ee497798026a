//! Set-up: three nodes on one rig, under a light load.
//! Fault: each one that needs a rig, one after the other.
//! Claim: it really takes place, and after the heal publishing goes on and the cluster is whole.

use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::faults::Confirmed;
use crate::history::Recorder;
use crate::rig::left_out;
use crate::wait::secs;
use crate::{Cluster, Load};

/// In the order of the table.
fn faults(rig: &Arc<Rig>) -> Vec<Box<dyn Fault>> {
    use partition::Cuts;
    let rig = || rig.clone();
    vec![
        Box::new(power::Cut::new(rig(), power::Victims::Owner)),
        Box::new(power::Cut::new(rig(), power::Victims::All)),
        Box::new(Cuts::new(rig(), Shape::OwnerAlone)),
        Box::new(Cuts::new(rig(), Shape::OtherAlone)),
        Box::new(Cuts::new(rig(), Shape::OwnerDeaf)),
        Box::new(Cuts::new(rig(), Shape::OwnerMute)),
        Box::new(Cuts::new(rig(), Shape::PeerPort)),
        Box::new(Cuts::new(rig(), Shape::ClientPorts)),
        Box::new(Cuts::new(rig(), Shape::Partial)),
        Box::new(swizzle::Swizzle::new(rig())),
        Box::new(links::Bad::new(rig(), links::lossy())),
        Box::new(links::Bad::new(rig(), links::slow())),
        Box::new(disk::FsyncError::new(rig())),
        Box::new(disk::SlowFsync::new(rig())),
        Box::new(disk::Full::new(rig())),
        Box::new(clock::Step::new(rig())),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_takes_place_and_the_cluster_is_whole_after_it() {
    let rig = match Rig::new(7) {
        Ok(rig) => Arc::new(rig),
        Err(why) => return left_out("the faults of the rig", &why),
    };
    let cluster = Cluster::of(3).on(rig.clone()).start().await;
    let hot = "faults/0".to_owned();
    let mut load = cluster.load(1, std::slice::from_ref(&hot));
    let scribe = Recorder::new().scribe("nemesis");
    let mut stage = Stage { cluster, hot, rng: StdRng::seed_from_u64(7), scribe };
    let faults = faults(&rig);
    assert_eq!(faults.len(), ON_THE_RIG.len());
    for (mut fault, row) in faults.into_iter().zip(ON_THE_RIG) {
        take_place(&mut *fault, row.name, &mut stage, &mut load).await;
    }
    load.end().await;
}

async fn take_place(fault: &mut dyn Fault, name: &str, stage: &mut Stage, load: &mut Load) {
    let begun = Instant::now();
    let effect = fault.inject(stage).await.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!(fault.confirm(stage).await, Confirmed::Installed, "{name}");
    let there = begun.elapsed();
    if effect.majority {
        load.goes_on(1, secs(20)).await;
    }
    let on = begun.elapsed();
    fault.heal(stage).await;
    load.goes_on(1, secs(30)).await;
    let healed = begun.elapsed();
    stage.cluster.settled(3).await;
    let whole = begun.elapsed();
    eprintln!("{name}: there {there:?}, on {on:?}, healed {healed:?}, whole {whole:?}");
}
