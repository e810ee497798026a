//! The files of the demo page.

use crate::asset::Asset;

macro_rules! modules {
    ($($name:literal)*) => {
        [$(Asset::js(concat!("/demo/", $name), include_str!(concat!("../demo/", $name)))),*]
    };
}

/// The page and its style.
pub(crate) const PAGE: [Asset; 2] = [
    Asset::html("/", include_str!("../demo/index.html")),
    Asset::css("/demo/demo.css", include_str!("../demo/demo.css")),
];

/// The modules of the page, which imports `demo.js`.
pub(crate) const MODULES: [Asset; 14] = modules! {
    "card.js" "cluster.js" "connection.js" "costs.js" "demo.js" "dom.js" "goals.js"
    "latency.js" "matches.js" "nodes.js" "received.js" "story.js" "teams.js" "wall.js"
};
