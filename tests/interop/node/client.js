// A user of Flintlock's API on @grpc/grpc-js: node client.js '{"addr": .., "action": ..}'. Prints one line of JSON.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const given = JSON.parse(process.argv[2]); // addr, action, protos, id, uid, ca, token, keepaliveMs
const load = (file) => grpc.loadPackageDefinition(loader.loadSync(file, { includeDirs: [given.protos] }));
const MicroVM = load("billet/wire/pb/flintlock.proto").microvm.services.api.v1alpha1.MicroVM;
const Exec = load("billet/wire/pb/flintlock_exec.proto").microvmexec.services.api.v1alpha1.MicroVMExec;
const credentials = given.ca ? grpc.credentials.createSsl(readFileSync(given.ca)) : grpc.credentials.createInsecure();
const options = { "grpc.enable_http_proxy": 0, "grpc.enable_retries": 0 };
if (given.keepaliveMs) options["grpc.keepalive_time_ms"] = given.keepaliveMs;
const metadata = new grpc.Metadata();
if (given.token) metadata.set("authorization", "Basic " + Buffer.from(given.token).toString("base64"));
const microvms = new MicroVM(given.addr, credentials, options);

const call = (method, request) =>
  new Promise((resolve, reject) =>
    microvms[method](request, metadata, { deadline: Date.now() + 50_000 }, (error, reply) => (error ? reject(error) : resolve(reply))),
  );

const create = async () => {
  const spec = {
    id: given.id ?? "js", namespace: "js", vcpu: 1, memoryInMb: 1024,
    kernel: { image: "r.example/kernel:1", filename: "vmlinux" },
    rootVolume: { id: "root", source: { containerSource: "r.example/root:1" } },
    interfaces: [{ deviceId: "eth1", type: "TAP" }],
  };
  return (await call("CreateMicroVM", { microvm: spec })).microvm.spec;
};

// Sends pieces to `cat`, half-closes, and counts what comes back.
const exec = (uid) =>
  new Promise((resolve, reject) => {
    const stream = new Exec(given.addr, credentials, options).execCommand(metadata);
    let received = 0;
    stream.on("data", (reply) => (received += reply.stdout?.length ?? 0));
    stream.on("error", reject);
    stream.on("status", () => resolve(received));
    stream.write({ start: { uid, cmd: "cat", hasStdin: true } });
    for (let n = 0; n < 100; n++) stream.write({ stdin: Buffer.alloc(10_000) });
    stream.end();
  });

const actions = {
  create: async () => ({ uid: (await create()).uid }),
  life: async () => {
    const { uid } = await create();
    const { microvm } = await call("GetMicroVM", { uid });
    const received = await exec(uid);
    await call("DeleteMicroVM", { uid });
    return { same: microvm.spec.uid === uid, received };
  },
};

try {
  console.log(JSON.stringify({ code: 0, ...(await actions[given.action]()) }));
} catch (error) {
  console.log(JSON.stringify({ code: error.code ?? -1, text: error.details ?? String(error) }));
}
process.exit();
