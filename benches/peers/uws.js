// The smallest broker of uWebSockets.js: who connects to /sub/TOPIC hears what is said at /pub/TOPIC.
const uws = require("@trufflesuite/uws-js-unofficial");

const app = uws.App();
const topic = (response, request, context) =>
  response.upgrade(
    { topic: request.getUrl().slice(5) },
    request.getHeader("sec-websocket-key"),
    request.getHeader("sec-websocket-protocol"),
    request.getHeader("sec-websocket-extensions"),
    context,
  );
const quiet = { idleTimeout: 0, sendPingsAutomatically: false, compression: uws.DISABLED, upgrade: topic };
app.ws("/sub/*", { ...quiet, open: (ws) => ws.subscribe(ws.getUserData().topic) });
app.ws("/pub/*", { ...quiet, message: (ws, said, binary) => app.publish(ws.getUserData().topic, said, binary) });
app.listen("127.0.0.1", Number(process.argv[2]), (listening) => listening || process.exit(1));
