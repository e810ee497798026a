// A session with a clock and randomness that the test controls. Effects are collected by kind.

import { createSession } from "../src/session.js";

/** The names of the arguments of each effect. */
const ARGUMENTS = {
  open: ["transport", "url"],
  try: ["transport", "url"],
  disconnect: [],
  send: ["frame"],
  token: ["reason"],
  deliver: ["topic", "event", "newestOnly"],
  end: ["topic", "error"],
  settle: ["publish", "result"],
  report: ["name", "value"],
};

export class Harness {
  now = 1_000_000;
  /** Every effect since the last `take`. */
  effects = [];

  constructor(options = {}) {
    this.random = 0.5;
    this.session = createSession({
      urls: ["http://a"],
      transports: ["websocket"],
      random: () => this.random,
      canAsk: false,
      ...options,
    });
    this.run("tick");
  }

  /** Gives an event to the session at the time of the harness. */
  run(name, ...args) {
    this.session[name](this.now, ...args);
    this.session.tick(this.now);
    this.effects.push(...this.session.takeEffects());
    return this;
  }

  /** Opens the connection, and accepts the token if one is sent. */
  open({ expires } = {}) {
    this.run("opened");
    const request = this.sent.find((frame) => frame.authenticate);
    if (request) this.frame({ id: request.id, authenticated: { expires } });
    return this;
  }

  frame(frame, text = JSON.stringify(frame)) {
    return this.run("frame", frame, text);
  }

  /** Subscribes, and lets the node accept it. */
  live(topic, position = "5:0", options = {}, delivery) {
    this.run("subscribe", topic, options);
    return this.accept(topic, position, delivery);
  }

  /** Lets the node accept the last request for a topic. */
  accept(topic, position = "5:0", delivery) {
    const request = this.sent.findLast((frame) => frame.subscribe?.topic === topic);
    return this.frame({ id: request.id, subscribed: { topic, position, recovered: true, delivery } });
  }

  message(topic, position, data = position) {
    return this.frame({ message: { topic, position, time: 1, data } });
  }

  /** Lets time pass to the next deadline, or by `ms`, in steps as the loop does. */
  advance(ms = this.session.deadline(this.now) - this.now) {
    const end = this.now + ms;
    for (;;) {
      const deadline = this.session.deadline(this.now);
      if (deadline > end) break;
      this.now = Math.max(deadline, this.now);
      this.run("tick");
      if (deadline === end) break;
    }
    this.now = end;
    return this.run("tick");
  }

  of(kind) {
    const named = (args) => Object.fromEntries(ARGUMENTS[kind].map((name, index) => [name, args[index]]));
    return this.effects.filter(([effect]) => effect === kind).map(([, ...args]) => named(args));
  }

  get sent() {
    return this.of("send").map(({ frame }) => frame);
  }

  get opened() {
    return this.of("open").map(({ url }) => url);
  }

  /** The events of a topic as `[type, position or value]`. */
  events(topic) {
    return this.of("deliver")
      .filter((effect) => effect.topic === topic)
      .map(({ event: { type, value } }) => [type, value.position ?? value]);
  }

  messages(topic) {
    return this.events(topic)
      .filter(([type]) => type === "message")
      .map(([, position]) => position);
  }

  reports(name) {
    return this.of("report")
      .filter((effect) => effect.name === name)
      .map(({ value }) => value);
  }

  /** Forgets the effects so far. */
  clear() {
    this.effects = [];
    return this;
  }
}
