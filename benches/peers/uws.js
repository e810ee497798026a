// A minimal broker with uWebSockets.js: clients at /sub/TOPIC receive the messages that clients at /pub/TOPIC
// send. Arguments: PORT [CERTIFICATE KEY], the last two for TLS.
const uws = require("@trufflesuite/uws-js-unofficial");

const [port, cert_file_name, key_file_name] = process.argv.slice(2);
const app = cert_file_name ? uws.SSLApp({ cert_file_name, key_file_name }) : uws.App();
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
app.ws("/pub/*", { ...quiet, message: (ws, data, binary) => app.publish(ws.getUserData().topic, data, binary) });
app.listen("127.0.0.1", Number(port), (listening) => listening || process.exit(1));
