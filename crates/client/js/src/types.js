// Types of the interface. This file has no code.

/**
 * Where a subscription begins: with the next message (`"now"`, the default), the oldest message of the history
 * (`"start"`), the newest `last` messages, or after a position.
 * @typedef {"now" | "start" | { last: number } | { position: string }} StartFrom
 */

/**
 * Which messages of a topic a subscription receives: every one in order (`"all"`), the newest one each time the
 * client can take one (`"latest"`), or the newest one at most `rate` times a second.
 * @typedef {"all" | "latest" | { rate: number }} Delivery
 */

/**
 * @typedef {object} SubscribeOptions
 * @property {StartFrom} [from] where the subscription begins; `"now"` by default
 * @property {Delivery} [delivery] the default of the namespace when absent
 * @property {boolean} [audience] whether `audience` events report the number of subscribers
 * @property {boolean} [delta] whether the node may send differences in place of whole messages: fewer bytes for
 *   large payloads that change little. Messages are the same
 */

/**
 * A message as a subscriber receives it.
 * @typedef {object} Message
 * @property {string} topic
 * @property {string} position `epoch:offset`; positions of a topic increase
 * @property {number} time when the topic's owner accepted the message, in milliseconds since 1970
 * @property {any} data a JSON value, a string, or a `Uint8Array`, as `contentType` says
 * @property {string} contentType
 * @property {string} [key] the key of the publisher
 */

/**
 * The newest message of a topic, or `data: undefined` when the topic has none.
 * @typedef {object} Snapshot
 * @property {any} data as in a message
 * @property {string} position a subscription from this position receives everything that follows
 * @property {string} [contentType]
 */

/**
 * Messages that will not be delivered, from `from` to `to`, both included.
 * @typedef {{ topic: string, from: string, to: string, reason: "expired" | "epoch" | "slow" | string }} Gap
 */

/**
 * A subscription is live: every message after `position` follows.
 * @typedef {object} Subscribed
 * @property {string} topic
 * @property {string} position the newest position of the topic when the subscription began
 * @property {boolean} recovered whether everything since the requested start follows without a gap
 * @property {Delivery} delivery the delivery that the node granted
 */

/**
 * The events of a subscription.
 * @typedef {object} SubscriptionEvents
 * @property {Message} message
 * @property {Gap} gap
 * @property {Subscribed} subscribed after every connect, when the topic is live again
 * @property {{ topic: string, since: string }} stale the node has lost contact with the topic's owner: messages
 *   after `since` may exist
 * @property {{ topic: string, position: string }} live the end of `stale`: messages that were missed follow
 * @property {{ topic: string, count: number }} audience
 * @property {import("./errors.js").PushonceError} error the node refused or ended the subscription; it is over
 */

/** @typedef {{ [T in keyof SubscriptionEvents]: { type: T, value: SubscriptionEvents[T] } }[keyof SubscriptionEvents]} SubscriptionEvent */

/**
 * The events of a client.
 * @typedef {object} ClientEvents
 * @property {{ url: string, transport: TransportName }} connected
 * @property {{ url: string, reason: string, code?: number, retryIn?: number }} disconnected a connection ended,
 *   or could not be opened; the next attempt follows after `retryIn` milliseconds, or never when it is absent
 * @property {import("./errors.js").PushonceError | undefined} closed the client is closed: by `close()`, or with
 *   the error that made further attempts pointless
 */

/** @typedef {"webtransport" | "websocket" | "sse" | "long-poll"} TransportName */

/**
 * Why a token is requested: for the first connection, because the one in use expires soon, has expired, or was
 * rejected. After `rejected` and `expired` return another token, or throw a `PushonceError` with the code
 * `not_authenticated` to give up.
 * @typedef {{ reason: "connect" | "expiring" | "expired" | "rejected" }} TokenRequest
 */

/** @typedef {(request: TokenRequest) => string | Promise<string>} TokenProvider */

/**
 * @typedef {object} ConnectOptions
 * @property {string | TokenProvider} [token] the access token, or a function that returns one
 * @property {TokenProvider} [getToken] returns further tokens, when `token` is the first one
 * @property {"pause" | { rate: number }} [whenHidden] what happens while the page is hidden. `{ rate: 1 }`:
 *   subscriptions with `latest` or a rate receive at most that many messages a second. `"pause"`: nothing is
 *   received. Afterwards each subscription continues from its position. By default nothing changes
 * @property {TransportName[]} [transports] the transports to use, best first. `"webtransport"` and `"websocket"` are
 *   opened at the same time, and the first that is open is used
 * @property {WebTransportOptions} [webTransport] how WebTransport finds a node, where that does not follow from its address,
 *   and whether it uses datagrams
 * @property {WebSocketConstructor} [WebSocket] for runtimes without a global `WebSocket`, such as Node 20
 * @property {typeof globalThis.fetch} [fetch] in place of the global one
 */

/**
 * @typedef {object} WebTransportOptions
 * @property {string} [url] `https://HOST:PORT` of the QUIC port, when it is not that of the address
 * @property {string[]} [certificateHashes] SHA-256 of the node's certificate in base64, when no authority signed it.
 *   A node in development names its own to pages that connect to it over `http://`
 * @property {boolean} [datagrams] whether subscriptions with `delivery` `latest` or a rate get their messages as
 *   datagrams: a lost packet then delays none of the next ones
 */

/** @typedef {new (url: string, protocols: string) => WebSocketLike} WebSocketConstructor */

/**
 * The part of a WebSocket that is used.
 * @typedef {object} WebSocketLike
 * @property {((event: any) => any) | null} onopen
 * @property {((event: any) => any) | null} onmessage
 * @property {((event: any) => any) | null} onclose
 * @property {((event: any) => any) | null} onerror
 * @property {(data: string) => void} send
 * @property {(code?: number, reason?: string) => void} close
 * @property {number} readyState
 */

/**
 * @typedef {object} PublishOptions
 * @property {string} [key] the idempotency key: publishes with the same key are stored once. Drawn at random when
 *   absent, so that every retry of this publish is safe; give one to make it safe across page loads as well
 * @property {string} [contentType] by default a string is text, a `Uint8Array` is binary, and everything else is JSON
 * @property {number} [timeout] time in milliseconds after which the outcome is unknown; 8,000 by default
 */

/**
 * A message is stored.
 * @typedef {object} Acknowledgement
 * @property {string} position
 * @property {"replicated" | "memory" | string} durability which failures the message survives
 */

// Types between the modules.

/**
 * A frame, as JSON. `proto/README.md` lists them.
 * @typedef {{ [name: string]: any }} Frame
 */

/**
 * What the loop carries out for a session: the name of the effect and its arguments.
 * @typedef {object} Effects
 * @property {[transport: TransportName, url: string]} open
 * @property {[transport: TransportName, url: string]} try opens a connection only to see whether the transport works
 * @property {[]} disconnect
 * @property {[frame: Frame]} send
 * @property {[reason: TokenRequest["reason"]]} token
 * @property {[topic: string, event: SubscriptionEvent, newestOnly: boolean]} deliver
 * @property {[topic: string, error?: import("./errors.js").PushonceError]} end
 * @property {[publish: number, result: Acknowledgement | import("./errors.js").PublishError]} settle
 * @property {[name: keyof ClientEvents, value: any]} report
 */

/** @typedef {{ [N in keyof Effects]: [name: N, ...args: Effects[N]] }[keyof Effects]} Effect */

/** @typedef {<N extends keyof Effects>(name: N, ...args: Effects[N]) => void} Emit */

/**
 * A connection of any transport.
 * @typedef {object} Connection
 * @property {(frame: Frame) => unknown} send
 * @property {() => unknown} close
 */

/**
 * What a connection reports.
 * @typedef {object} ConnectionEvents
 * @property {(transport?: TransportName) => unknown} opened with another transport than was asked for
 * @property {(frame: Frame, text: string) => unknown} frame
 * @property {(code?: number, reason?: string) => unknown} closed
 */

/**
 * Turns a message with a delta into one with its whole payload.
 * @typedef {object} DeltaDecoder
 * @property {() => void} reset forgets the last message
 * @property {(message: Frame, text: string) => Frame} decode throws when the delta does not fit the last message
 */

/**
 * What a transport needs that is loaded when it is used.
 * @typedef {object} TransportParts
 * @property {string} address the address of the node
 * @property {ConnectionEvents} events
 * @property {typeof globalThis.fetch} fetch
 * @property {typeof import("./http-error.js").httpError} httpError
 * @property {typeof import("./payload.js").toBytes} toBytes
 * @property {Remember} store a connection that the best transport opens forgets it
 * @property {WebTransportOptions} [options]
 */

/**
 * Remembers a transport until a time, or forgets it.
 * @typedef {(transport?: TransportName, until?: number) => void} Remember
 */

export {};
