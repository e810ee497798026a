//! The files of the console.

use crate::asset::Asset;

macro_rules! modules {
    ($($name:literal)*) => {
        [$(Asset::js(concat!("/console/", $name), include_str!(concat!("../console/", $name)))),*]
    };
}

/// The page and its style.
pub(crate) const PAGES: [Asset; 2] = [
    Asset::html("/console/", include_str!("../console/index.html")),
    Asset::css("/console/console.css", include_str!("../console/console.css")),
];

/// Every module of `console/`. `types.js` has types only, for tools.
pub(crate) const MODULES: [Asset; 22] = modules! {
    "chart.js" "cluster-store.js" "cluster-view.js" "dom.js" "format.js" "health.js" "main.js" "nodes-panel.js"
    "payload-text.js" "poll.js" "publish-box.js" "rates-panel.js" "ring.js" "router.js" "session.js"
    "sessions-view.js" "sign-in.js" "start.js" "tail.js" "topic-rates.js" "topic-view.js" "topics-view.js"
};
