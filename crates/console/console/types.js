// Types of the data pages, as `/console/data/…` answers. This file has no code.

/**
 * @typedef {object} Member
 * @property {string} id
 * @property {string} name
 * @property {string} region
 * @property {string} zone
 * @property {string} roles
 * @property {string} state
 * @property {boolean} reachable
 * @property {string} release
 * @property {string} http
 */

/** @typedef {{ shard: number, owner: string | null, replicas: string[] }} Shard */
/** @typedef {{ severity: string, kind: string, text: string }} Problem */
/** @typedef {{ shard: number, text: string, node: string | null, matched: number, last: number }} Move */

/**
 * @typedef {object} Cluster
 * @property {string} node
 * @property {string} cluster
 * @property {number} version
 * @property {number} cluster_version
 * @property {string | null} leader
 * @property {Member[]} members
 * @property {Shard[]} shards
 * @property {number} replicas
 * @property {Problem[]} problems
 * @property {Move[]} moves
 * @property {{ [node: string]: number }} round_trips_us
 */

/**
 * @typedef {object} Sample
 * @property {number} second
 * @property {number} published
 * @property {number} rejected
 * @property {number} delivered
 * @property {number} sent_bytes
 * @property {number} sessions
 * @property {number} subscriptions
 * @property {number | null} publish_p50_us
 * @property {number | null} publish_p99_us
 * @property {number | null} delivery_p50_us
 * @property {number | null} delivery_p99_us
 */

/** @typedef {{ samples: Sample[], nodes: { id: string, newest: Sample | null }[] }} Rates */

/** @typedef {{ position: string, shard: number, owner: string, history_messages: number, history_bytes: number, audience: number | null }} TopicRow */
/** @typedef {{ segment: string, topics_below: number, topic: TopicRow | null }} Segment */
/** @typedef {{ level: string, topics: number, segments: Segment[], next: string | null, unknown_shards: number[] }} TopicPage */

/**
 * @typedef {object} TopicState
 * @property {string} topic
 * @property {number} shard
 * @property {string} owner
 * @property {string[]} replicas
 * @property {string} position
 * @property {string | null} oldest
 * @property {number} history_messages
 * @property {number} history_bytes
 * @property {number | null} audience
 * @property {{ name: string, is_named: boolean, durability: string, delivery: string, rate_max: number | null, history_count_max: number, history_bytes_max: number, history_age_max_ms: number, payload_bytes_max: number, anonymous_read: boolean, client_publish: boolean }} namespace
 */

/** @typedef {{ topic: string, namespace: string, shard: number, shards: number, replicas: string[], route: { node: string, region: string, role: string }[] }} Explanation */

/** @typedef {{ node: string, id: string, transport: string, address: string, subject: string | null, topics: number, topic: string, messages: number, bytes: number, oldest_ms: number, blocked: boolean }} SlowSession */
/** @typedef {{ sessions: SlowSession[], subscriptions: number, incomplete: string[] }} SlowSessions */

/**
 * A view: its element, and what ends it.
 * @typedef {{ title: string, element: HTMLElement, stop: () => void }} View
 */

export {};
