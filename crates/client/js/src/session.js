// The connection of a client with its nodes, one after another: pure. Events and the time go in, effects come out.

import { createBackoff } from "./backoff.js";
import { FINAL, LATER, TOKEN } from "./close-codes.js";
import { createCredentials } from "./credentials.js";
import { PushonceError } from "./errors.js";
import { createOutbox } from "./outbox.js";
import { createResumeState } from "./resume-state.js";
import { createServers } from "./servers.js";

/** @import { ClientEvents, ConnectOptions, Effect, Frame, TransportName } from "./types.js" */

/** Time to open a connection before the next node is tried. It grows with each failure, for slow networks. */
const OPEN_TIMEOUT = 5_000;
const OPEN_TIMEOUT_MAX = 20_000;
/** Time for the function of the application to return a token. */
const TOKEN_TIMEOUT = 30_000;
/** Two and a half heartbeats: a connection that is silent for longer is dead. */
const IDLE_TIMEOUT = 62_500;
/** Time for the first reply: a node answers within 5 s. */
const REPLY_TIMEOUT = 10_000;
/** Time for the reply to a probe, after the page or the network came back. */
const PROBE_TIMEOUT = 3_000;
/** A connection with a frame within this time needs no probe. */
const PROBE_AFTER = 1_000;

/** @typedef {"waiting" | "token" | "opening" | "open" | "closed"} Phase */

/**
 * @typedef {object} SessionOptions
 * @property {string[]} urls
 * @property {TransportName[]} transports best first
 * @property {TransportName} [first] the one to begin with
 * @property {() => number} random from 0 to 1
 * @property {string} [token]
 * @property {boolean} canAsk whether there is a function that returns tokens
 * @property {ConnectOptions["whenHidden"]} [whenHidden]
 */

/** @typedef {ReturnType<typeof createSession>} Session */

/** @param {SessionOptions} options */
export function createSession({ urls, transports, first, random, token, canAsk, whenHidden }) {
  /** @type {Effect[]} */
  let effects = [];
  const emit = /** @type {import("./types.js").Emit} */ ((/** @type {any} */ ...effect) => void effects.push(effect));
  let lastId = 0;
  const nextId = () => ++lastId;

  const servers = createServers(urls, transports, random, first);
  const credentials = createCredentials(emit, token, canAsk);
  const topics = createResumeState(emit, nextId, random, whenHidden);
  const outbox = createOutbox(emit, nextId, random);

  /** @type {Phase} */
  let phase = "waiting";
  let retryAt = 0;
  let openBy = Infinity;
  /** Without a frame until then, the connection is dead. */
  let aliveUntil = Infinity;
  let lastFrameAt = 0;
  let hadFrame = false;
  let failures = 0;
  /** Whether the last connection was left because of a fault of the node, and none has brought a message since. */
  let isFaulty = false;
  /** The request that sent the token, while its reply is outstanding. */
  let authenticationId = 0;
  /** Whether this connection needs no token, or its token was accepted. */
  let isVerified = false;
  /** The transport of the connection. @type {TransportName} */
  let via;
  let leaveAt = Infinity;
  let leaveReason = "";
  let switchAt = Infinity;
  // How long a node with a stale topic is kept. Longer with each further one, because then the nodes are not the cause.
  const staleDelay = createBackoff(1_000, 64_000, random);
  /** When to try the best transport again. */
  let upgradeAt = Infinity;
  const upgradeDelay = createBackoff(60_000, 3_600_000, random);

  /** @template {keyof ClientEvents} N @param {N} name @param {ClientEvents[N]} value */
  const report = (name, value) => emit("report", name, value);

  /** @param {number} now */
  function start(now) {
    if (!credentials.isReady()) {
      phase = "token";
      openBy = now + TOKEN_TIMEOUT;
      return;
    }
    phase = "opening";
    hadFrame = false;
    openBy = now + Math.min(OPEN_TIMEOUT * (failures + 1), OPEN_TIMEOUT_MAX);
    emit("open", servers.transport(), servers.url());
  }

  /** @param {Frame} request */
  function send(request) {
    const id = nextId();
    emit("send", { id, ...request });
    return id;
  }

  /** Sends what waits and may be sent. @param {number} now */
  function pump(now) {
    if (phase !== "open") return;
    const requests = topics.takeRequests(now);
    if (requests.length && !hadFrame) aliveUntil = Math.min(aliveUntil, now + REPLY_TIMEOUT);
    // A publish that a refused token takes along would have an unknown outcome.
    if (isVerified) requests.push(...outbox.takeRequests(now));
    for (const frame of requests) emit("send", frame);
  }

  function authenticate() {
    authenticationId = send({ authenticate: { token: credentials.token() } });
  }

  function onVerified() {
    isVerified = true;
    authenticationId = 0;
    report("connected", { url: servers.url(), transport: via });
  }

  /**
   * Ends the connection, or the attempt to open one, and schedules the next.
   * @param {number} now
   * @param {string} reason
   * @param {{ code?: number, isLater?: boolean, isWanted?: boolean }} [how]
   */
  function lose(now, reason, { code, isLater = false, isWanted = false } = {}) {
    if (phase === "closed") return;
    const url = servers.url();
    disconnect();
    if (!isWanted) failures += 1;
    phase = "waiting";
    retryAt = servers.next(now, isLater, hadFrame || isWanted);
    report("disconnected", { url, reason, code, retryIn: retryAt - now });
  }

  function disconnect() {
    emit("disconnect");
    topics.begin(false);
    outbox.begin(false);
    credentials.reset();
    openBy = aliveUntil = leaveAt = switchAt = upgradeAt = Infinity;
    authenticationId = 0;
    isVerified = false;
  }

  /** Ends the client. @param {PushonceError} [error] @param {number} [code] */
  function close(error, code) {
    if (phase === "closed") return;
    disconnect();
    phase = "closed";
    if (error) report("disconnected", { url: servers.url(), reason: error.message, code });
    topics.close(error);
    outbox.close(error ?? new PushonceError("closed", "the client is closed"));
    report("closed", error);
  }

  /**
   * The node refused the token, or it has expired.
   * @param {number} now
   * @param {string} word
   * @param {string} message
   * @param {number} [code]
   */
  function refuse(now, word, message, code) {
    const error = credentials.refuse(word, message);
    if (error) close(error, code);
    else lose(now, message, { code, isWanted: true });
  }

  /** The reply to a token. @param {Frame} frame @param {number} now */
  function onAuthentication({ authenticated, error }, now) {
    authenticationId = 0;
    if (authenticated || error.code === "not_supported") {
      credentials.onAccepted(now, authenticated?.expires);
      if (!isVerified) onVerified();
    } else if (!error.retry && error.code !== "not_allowed") {
      refuse(now, error.code, error.message);
    } else if (isVerified && error.retry) {
      // The keys of the issuer cannot be fetched now. The token before is valid for a while.
      credentials.askAgain(now);
    } else {
      // Without a verified token every request would be refused. A token of another subject needs another connection.
      lose(now, error.message, { isLater: error.retry, isWanted: !error.retry });
    }
  }

  /**
   * A node that has lost contact with the owner of a topic is left for another, if there is one.
   * @param {number} now
   */
  function considerSwitch(now) {
    if (!topics.hasStale()) switchAt = Infinity;
    else if (servers.hasOthers() && switchAt === Infinity) switchAt = now + staleDelay.next();
  }

  /**
   * A node that was down for a moment looks like a network that blocks WebSockets, and networks change.
   * @param {number} now
   */
  function scheduleUpgrade(now) {
    if (servers.transport() !== transports[0]) upgradeAt = now + upgradeDelay.next();
  }

  /**
   * Applies every deadline that has passed, and sends what waits. To be called after every other event.
   * @param {number} now
   */
  function tick(now) {
    outbox.expire(now);
    if (phase === "waiting" && now >= retryAt) start(now);
    else if (now >= openBy) lose(now, `timeout: ${phase}`, { isWanted: phase === "token" });
    else if (now >= leaveAt) lose(now, leaveReason, { isWanted: true });
    else if (now >= switchAt) lose(now, "a topic is stale", { isWanted: true });
    else if (now >= aliveUntil) lose(now, "the node is silent");
    else if (phase === "open") credentials.tick(now);
    if (now >= upgradeAt) {
      upgradeAt = Infinity;
      emit("try", transports[0], servers.url());
    }
    pump(now);
  }

  return {
    tick,

    /** The effects since the last call, in order. */
    takeEffects() {
      const taken = effects;
      effects = [];
      return taken;
    },

    /** When to call `tick`. @param {number} now */
    deadline(now) {
      const at = phase === "waiting" ? retryAt : Infinity;
      return Math.min(
        at,
        openBy,
        leaveAt,
        switchAt,
        upgradeAt,
        aliveUntil,
        credentials.deadline(),
        topics.deadline(now),
        outbox.deadline(now),
      );
    },

    /** @returns {Phase} */
    phase: () => phase,
    url: () => servers.url(),

    /** The connection is open. @param {number} now @param {TransportName} [name] another transport than was asked for */
    opened(now, name = servers.transport()) {
      if (phase !== "opening") return;
      via = name;
      phase = "open";
      openBy = Infinity;
      aliveUntil = now + IDLE_TIMEOUT;
      lastFrameAt = now;
      lastId = 0;
      scheduleUpgrade(now);
      topics.begin(true);
      outbox.begin(true);
      if (credentials.token() === undefined) onVerified();
      else authenticate();
    },

    /**
     * @param {number} now
     * @param {Frame} frame
     * @param {string} text the frame as it was received; empty for a reply of the transport
     */
    frame(now, frame, text) {
      if (phase !== "open") return;
      // Without a text, it did not come from the node.
      if (text) {
        lastFrameAt = now;
        aliveUntil = now + IDLE_TIMEOUT;
        hadFrame = true;
        servers.onFrame();
      }
      const { id, goaway } = frame;
      if (goaway) {
        if (goaway.back_ms) servers.avoid(now, goaway.back_ms);
        leaveAt = Math.min(leaveAt, now + random() * goaway.after_ms);
        leaveReason = goaway.reason;
      } else if (id && id === authenticationId) {
        onAuthentication(frame, now);
      } else {
        outbox.onFrame(frame, now);
        const fault = topics.onFrame(frame, text, now);
        if (frame.message || frame.live) staleDelay.reset();
        if (frame.message) isFaulty = !!fault;
        if (fault) lose(now, fault);
      }
      if (phase === "open") {
        if (isVerified && topics.isComplete() && !isFaulty) {
          failures = 0;
          servers.onComplete();
        }
        considerSwitch(now);
      }
    },

    /**
     * The connection has ended, or could not be opened.
     * @param {number} now
     * @param {number} [code]
     * @param {string} [reason]
     */
    closed(now, code = 1006, reason) {
      if (phase !== "opening" && phase !== "open") return;
      const word = FINAL[code];
      const text = reason || word || "the connection ended";
      if (TOKEN.includes(code)) refuse(now, word, text, code);
      else if (word) close(new PushonceError(word, `${code} ${text}`), code);
      else lose(now, text, { code, isLater: LATER.includes(code) });
    },

    /** A token of the application. @param {number} now @param {string} next */
    token(now, next) {
      const isNew = credentials.onToken(next);
      if (credentials.isRefused()) return close(new PushonceError("not_authenticated", "the token was refused"));
      if (phase === "token") start(now);
      else if (phase === "open" && isNew) authenticate();
      else if (phase === "open") credentials.askAgain(now);
      return undefined;
    },

    /** The application has no token now. @param {number} now @param {unknown} error */
    tokenFailed(now, error) {
      credentials.askAgain(now);
      if (error instanceof PushonceError && error.code === "not_authenticated") close(error);
      else if (phase === "token") lose(now, `no token: ${error}`, { isWanted: true });
    },

    /** The best transport was tried again. @param {number} now @param {boolean} isOpen */
    tried(now, isOpen) {
      if (phase !== "open" || servers.transport() === transports[0]) return;
      if (isOpen) {
        servers.resetTransport();
        lose(now, "upgrade", { isWanted: true });
      } else {
        scheduleUpgrade(now);
      }
    },

    /**
     * The page or the network came back: the connection may be dead, or the wait pointless.
     * @param {number} now
     * @param {boolean} isOtherNetwork
     */
    wake(now, isOtherNetwork) {
      if (isOtherNetwork) {
        if (upgradeAt < Infinity) upgradeAt = now;
        if (phase === "waiting") servers.resetTransport();
      }
      if (phase === "waiting") {
        retryAt = Math.max(now, servers.notBefore());
      } else if (phase === "open" && now - lastFrameAt > PROBE_AFTER && aliveUntil > now + PROBE_TIMEOUT) {
        // Every request has an effect except this one: no session can subscribe to a reserved topic, so the reply is an error.
        send({ unsubscribe: { topic: "$" } });
        aliveUntil = now + PROBE_TIMEOUT;
      }
    },

    /** The page is hidden, or visible again. */
    setHidden: topics.setHidden,
    subscribe: topics.add,
    unsubscribe: topics.remove,
    setPaused: topics.setPaused,

    /** @param {number} now @param {number} number @param {Frame} publish @param {number} timeout */
    publish: (now, number, publish, timeout) => outbox.add(number, publish, now + timeout),

    /** @param {number} _now */
    close: (_now) => close(),
  };
}
