//! Publishes the events of the tournament at their times.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use pushonce_client::{Publisher, ServerAddress};
use pushonce_core::{Acknowledgement, ContentType, Position, Publish, Topic};
use tokio::time::Instant;

use crate::report::DemoReport;
use crate::schedule::ReplayStep;
use crate::script::{MatchEvent, MatchEventKind};
use crate::tournament::Tournament;
use crate::wall::{WALL, Wall};

/// Timeout of the first publish, during which the cluster forms.
const FORMING_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout of a publish. Longer than the page can take a node away from it: an event is published late, not
/// lost.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

/// The publisher of the demo: the website of the tournament.
pub(crate) struct Replay {
    tournament: Tournament,
    steps: Vec<ReplayStep>,
    publisher: Publisher,
    wall_topic: Topic,
    wall: Wall,
    /// The last position of the topic of all events.
    live: Option<Position>,
    pub(crate) report: DemoReport,
}

impl Replay {
    /// A replay that publishes to `servers`.
    ///
    /// # Errors
    /// When an address is not valid.
    pub(crate) fn new(
        tournament: Tournament,
        steps: Vec<ReplayStep>,
        servers: Vec<ServerAddress>,
    ) -> anyhow::Result<Replay> {
        Ok(Replay {
            wall_topic: Topic::new(WALL)?,
            wall: Wall::new(&tournament, None),
            tournament,
            steps,
            publisher: Publisher::builder(servers).deadline(PUBLISH_DEADLINE).build()?,
            live: None,
            report: DemoReport::new(Instant::now()),
        })
    }

    /// Publishes the state before the first match until it is acknowledged, which is when the cluster has
    /// formed.
    ///
    /// # Errors
    /// When that takes longer than [`FORMING_TIMEOUT`].
    pub(crate) async fn form_cluster(&mut self) -> anyhow::Result<()> {
        let first_publish = async {
            while self.report.acknowledged_count() == 0 {
                self.publish_wall().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(FORMING_TIMEOUT, first_publish)
            .await
            .context("the cluster did not form in time")??;
        self.report.time_to_form = self.report.started_at.elapsed();
        Ok(())
    }

    /// Publishes all events once.
    ///
    /// # Errors
    /// Cannot fail for the data that the binary contains.
    pub(crate) async fn play(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        self.wall = Wall::new(&self.tournament, self.live);
        self.publish_wall().await?;
        for index in 0..self.steps.len() {
            let ReplayStep { after, event } = self.steps[index].clone();
            tokio::time::sleep_until(start + after).await;
            self.publish_event(&event).await?;
        }
        Ok(())
    }

    async fn publish_event(&mut self, event: &MatchEvent) -> anyhow::Result<()> {
        let message = event.match_message(crate::now_ms())?;
        self.publish(event.topic.clone(), message).await;
        let Some(live_topic) = event.live_topic.clone() else { return Ok(()) };
        let message = event.live_message(crate::now_ms())?;
        if let Some(acknowledgement) = self.publish(live_topic, message).await {
            self.report.live_acknowledged += 1;
            self.live = Some(acknowledgement.position);
            self.wall.apply(&event.state, acknowledgement.position);
        }
        if matches!(event.state.event, MatchEventKind::KickOff | MatchEventKind::FullTime) {
            self.publish_wall().await?;
        }
        Ok(())
    }

    async fn publish_wall(&mut self) -> anyhow::Result<()> {
        let message = self.wall.message()?;
        self.publish(self.wall_topic.clone(), message).await;
        Ok(())
    }

    /// Publishes a message. A rejected or unknown one is counted and the demo continues: it shows what a
    /// publisher sees, also when a node is down.
    async fn publish(&mut self, topic: Topic, payload: Bytes) -> Option<Acknowledgement> {
        let start = Instant::now();
        let publish = Publish::new(topic, ContentType::Json, payload);
        match self.publisher.publish(publish).await {
            Ok(acknowledgement) => {
                self.report.on_acknowledged(start.elapsed());
                Some(acknowledgement)
            }
            Err(error) => {
                self.report.failed += 1;
                tracing::warn!(%error, "a publish was not acknowledged");
                None
            }
        }
    }
}
