// Many topics over one WebSocket. Resumes at the last position when the connection breaks, and reports
// messages that could not be recovered.

const SILENCE_TIMEOUT_MS = 60_000; // Heartbeats arrive every 25 s: two missed ones mean a dead connection.
const BACKOFF_MAX_MS = 10_000;
// Close codes: after "no" a reconnect cannot succeed before this page is changed; "later" means that the
// server is overloaded.
const RECONNECT_NO = new Set([1002, 1003, 1007, 1009, 4400]);
const RECONNECT_LATER = new Set([1011, 4408, 4429, 4503]);
const LATER_MS = 2_000;

export class Feed {
  #url;
  #on;
  #socket = null;
  #topics = new Map(); // topic → {from, audience, position, head}
  #asked = new Map(); // request id → topic
  #nextId = 1;
  #failures = 0;
  #watchdog = 0;

  // `on` has state(text, detail), message(topic, data, isNew), audience(topic, count) and notice(text).
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
    this.#connect();
  }

  // With `audience` the server reports the number of subscribers whenever it changes.
  subscribe(topic, from, audience = false) {
    if (this.#topics.has(topic)) return;
    this.#topics.set(topic, { from, audience, position: null, head: null });
    this.#ask(topic);
  }

  unsubscribe(topic) {
    if (this.#topics.delete(topic)) this.#send({ id: this.#nextId++, unsubscribe: { topic } });
  }

  #connect() {
    const socket = new WebSocket(this.#url, "pushonce.v1.json");
    this.#socket = socket;
    socket.onopen = () => {
      this.#failures = 0;
      this.#asked.clear();
      this.#on.state("connected");
      this.#topics.forEach((_, topic) => this.#ask(topic));
      this.#alive();
    };
    socket.onmessage = (event) => {
      this.#alive();
      this.#take(JSON.parse(event.data));
    };
    socket.onclose = (event) => this.#lost(event.code, event.reason);
  }

  #alive() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#socket.close(), SILENCE_TIMEOUT_MS);
  }

  #lost(code, reason) {
    clearTimeout(this.#watchdog);
    if (RECONNECT_NO.has(code)) {
      this.#on.state("ended", `${code} ${reason}`);
      return;
    }
    // Full jitter: the clients of a failed node must not reconnect all at once.
    const ceiling = Math.min(BACKOFF_MAX_MS, 500 * 2 ** this.#failures++);
    const pause = (RECONNECT_LATER.has(code) ? LATER_MS : 100) + Math.random() * ceiling;
    this.#on.state("reconnecting", `in ${(pause / 1000).toFixed(1)} s`);
    setTimeout(() => this.#connect(), pause);
  }

  #ask(topic) {
    const wanted = this.#topics.get(topic);
    if (!wanted) return;
    const from = wanted.position ? { position: wanted.position } : wanted.from;
    const id = this.#nextId++;
    const { audience } = wanted;
    if (this.#send({ id, subscribe: { topic, from, audience } })) this.#asked.set(id, topic);
  }

  #send(frame) {
    if (this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #take(frame) {
    if (frame.message) this.#message(frame.message);
    else if (frame.subscribed) this.#subscribed(frame.id, frame.subscribed);
    else if (frame.gap) this.#gap(frame.gap);
    else if (frame.audience) this.#on.audience(frame.audience.topic, frame.audience.count);
    else if (frame.error) this.#refused(frame.id, frame.error);
    else if (frame.goaway) setTimeout(() => this.#socket.close(), frame.goaway.after_ms);
  }

  #subscribed(id, { topic, position, recovered }) {
    this.#asked.delete(id);
    const wanted = this.#topics.get(topic);
    if (!wanted) return;
    wanted.head = position;
    if (!recovered && wanted.position) this.#on.notice(`${topic}: not everything could be recovered`);
  }

  #message({ topic, position, data }) {
    const wanted = this.#topics.get(topic);
    if (!wanted) return;
    wanted.position = position;
    // Messages from before the subscription do not count for the latency.
    this.#on.message(topic, data, !wanted.head || isAfter(position, wanted.head));
  }

  #gap({ topic, from, to, reason }) {
    const wanted = this.#topics.get(topic);
    if (!wanted) return;
    wanted.position = to;
    this.#on.notice(`${topic}: ${from} to ${to} are missing (${reason})`);
  }

  #refused(id, { code, message, retry }) {
    const topic = this.#asked.get(id);
    this.#asked.delete(id);
    const wanted = this.#topics.get(topic);
    if (!wanted) return;
    if (wanted.position && (code === "future_position" || code === "bad_position")) {
      wanted.position = null; // Another cluster answers at this address: subscribe as for the first time.
      this.#on.notice(`${topic}: the cluster was replaced, subscribing again`);
      this.#ask(topic);
    } else if (retry) {
      setTimeout(() => this.#ask(topic), 1_000);
    } else {
      this.#topics.delete(topic);
      this.#on.notice(`${topic}: ${message}`);
    }
  }
}

// Positions are `epoch:offset`.
function isAfter(position, other) {
  const [epoch, offset] = position.split(":").map(Number);
  const [otherEpoch, otherOffset] = other.split(":").map(Number);
  return epoch > otherEpoch || (epoch === otherEpoch && offset > otherOffset);
}
