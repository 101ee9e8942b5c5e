// A module worker that asks for a GPU and adds two vectors on it.

// TypeScript's library knows WebGPU's interfaces but not these two namespaces.
const { GPUBufferUsage, GPUMapMode } = /** @type {any} */ (globalThis);

const SHADER = `
@group(0) @binding(0) var<storage, read> a: array<f32>;        // (n)
@group(0) @binding(1) var<storage, read_write> b: array<f32>;  // (n)

@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < arrayLength(&a)) {
        b[id.x] += a[id.x];
    }
}`;

/**
 * b + a, computed by the adapter.
 * @param {GPUDevice} device
 * @param {Float32Array<ArrayBuffer>} a
 * @param {Float32Array<ArrayBuffer>} b
 */
async function add(device, a, b) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  const buffers = [a, b].map((values) => {
    const buffer = device.createBuffer({ size: values.byteLength, usage });
    device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  });
  const [, sum] = buffers;
  if (!sum) throw new Error("no buffer");
  const module = device.createShaderModule({ code: SHADER });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "add" } });
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const readback = device.createBuffer({ size: b.byteLength, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(Math.ceil(a.length / 64));
  pass.end();
  encoder.copyBufferToBuffer(sum, 0, readback, 0, b.byteLength);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(GPUMapMode.READ);
  return new Float32Array(readback.getMappedRange().slice(0));
}

async function run() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return { adapter: null };
  const { vendor, architecture, description } = adapter.info;
  const device = await adapter.requestDevice();
  const a = Float32Array.from({ length: 1000 }, (_, i) => i);
  const sum = await add(device, a, Float32Array.from(a, (x) => 0.5 * x));
  const maxError = sum.reduce((worst, x, i) => Math.max(worst, Math.abs(x - 1.5 * i)), 0);
  device.destroy();
  const features = [...adapter.features].sort();
  return { adapter: { vendor, architecture, description }, features, length: sum.length, last: sum[999], maxError };
}

self.onmessage = async () => self.postMessage(await run());
