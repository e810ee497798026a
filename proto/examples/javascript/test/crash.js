// A program with an outbox that is killed at one point: node crash.js POINT DATABASE SERVER

import { Cluster } from "../cluster.js";
import * as outbox from "../outbox.js";
import { Publisher } from "../publisher.js";
import { relay } from "../relay.js";

/** No handler runs and nothing is flushed, as when the machine loses power. */
const die = () => process.kill(process.pid, "SIGKILL");

const [point, path, server] = process.argv.slice(2);

/** Dies before or after the publish. */
class CrashingPublisher extends Publisher {
  async publish(...message) {
    if (point === "before the publish") die();
    const outcome = await super.publish(...message);
    if (point === "between the publish and the delete") die();
    return outcome;
  }
}

const database = outbox.connect(path);
database.exec("CREATE TABLE IF NOT EXISTS goals (score TEXT NOT NULL)");
outbox.transaction(database, () => {
  database.exec("INSERT INTO goals VALUES ('1:0')");
  outbox.save(database, point, "1:0");
  if (point === "before the commit") die();
});
await relay(database, new CrashingPublisher(new Cluster([server])), new AbortController().signal);
