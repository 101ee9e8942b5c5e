//! Pipelines by `createComputePipelineAsync`, which wgpu does not call: by the other call a browser
//! compiles in its queue, one after the other, and all that is submitted behind waits.

use std::future::Future;
use std::pin::Pin;

use js_sys::{JSON, JsString, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::error::describe;
use crate::gpu::{Access, BindingKind, Gpu, HandOver, Kernel};

#[wasm_bindgen]
extern "C" {
    /// As much of GPUDevice as this takes.
    #[derive(Clone)]
    type Device;
    #[wasm_bindgen(method, js_name = createShaderModule)]
    fn create_shader_module(this: &Device, descriptor: &JsValue) -> JsValue;
    #[wasm_bindgen(method, js_name = createBindGroupLayout)]
    fn create_bind_group_layout(this: &Device, descriptor: &JsValue) -> JsValue;
    #[wasm_bindgen(method, js_name = createPipelineLayout)]
    fn create_pipeline_layout(this: &Device, descriptor: &JsValue) -> JsValue;
    #[wasm_bindgen(method, js_name = pushErrorScope)]
    fn push_error_scope(this: &Device, filter: &str);
    #[wasm_bindgen(method, js_name = popErrorScope)]
    fn pop_error_scope(this: &Device) -> Promise;
    #[wasm_bindgen(method, catch, js_name = createComputePipelineAsync)]
    fn create_compute_pipeline_async(this: &Device, descriptor: &JsValue) -> Result<Promise, JsValue>;
}

/// Compiles a kernel beside the queue; see [`CompileAhead`](crate::gpu::CompileAhead).
pub fn ahead(gpu: &Gpu, kernel: &Kernel) -> Pin<Box<dyn Future<Output = Result<HandOver, String>>>> {
    let device = gpu.device().as_webgpu().map(|device| JsValue::from(device.clone()));
    let started = device.ok_or(JsValue::UNDEFINED).and_then(|device| {
        let device = device.unchecked_into::<Device>();
        // What is refused on the way is this kernel's own, told by nobody else, and no fault of what the device does
        // beside it.
        device.push_error_scope("validation");
        let compiling = start(&device, kernel);
        // Listening from now on: where nobody does, a rejection counts as a crash of the worker.
        let refused = JsFuture::from(device.pop_error_scope());
        Ok((JsFuture::from(compiling?), refused, device))
    });
    Box::pin(async move {
        let (compiling, refused, device) = started.map_err(|error| describe(&error))?;
        let (compiled, refused) = (compiling.await, refused.await);
        // A pipeline of a module that was refused says no more than that, or comes all the same; the first refusal
        // says why.
        let pipeline = match refused.ok().filter(JsValue::is_object) {
            Some(refused) => return Err(describe(&refused)),
            None => compiled.map_err(|error| describe(&error))?,
        };
        let hand_over: HandOver = Box::new(move || hand_over(device, pipeline));
        Ok(hand_over)
    })
}

/// Asks for the pipeline. Its layout is equivalent to that of the kernel's bind groups, so that it may run
/// with them.
fn start(device: &Device, kernel: &Kernel) -> Result<Promise, JsValue> {
    let entry = |(index, kind): (usize, BindingKind)| {
        let kind = match kind {
            BindingKind::Uniform(_) => "uniform",
            BindingKind::Storage(Access::Read) => "read-only-storage",
            BindingKind::Storage(Access::ReadWrite) => "storage",
        };
        // 4: GPUShaderStage.COMPUTE
        format!(r#"{{"binding":{index},"visibility":4,"buffer":{{"type":"{kind}"}}}}"#)
    };
    let entries: Vec<String> = kernel.bindings.iter().map(|b| b.kind).enumerate().map(entry).collect();
    let constants: Vec<String> =
        kernel.constants.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    let (entries, constants, name) = (entries.join(","), constants.join(","), kernel.name);

    let code = object(r#"{"code":0}"#)?;
    set(&code, "code", &JsString::from(kernel.source()))?;
    let module = device.create_shader_module(&code);
    let group = device.create_bind_group_layout(&object(&format!(r#"{{"entries":[{entries}]}}"#))?);
    let groups = object(r#"{"bindGroupLayouts":[0]}"#)?;
    Reflect::set_u32(&Reflect::get(&groups, &"bindGroupLayouts".into())?, 0, &group)?;
    let pipeline = object(&format!(
        r#"{{"label":"{name}","compute":{{"entryPoint":"{name}","constants":{{{constants}}}}}}}"#
    ))?;
    set(&Reflect::get(&pipeline, &"compute".into())?, "module", &module)?;
    set(&pipeline, "layout", &device.create_pipeline_layout(&groups))?;
    device.create_compute_pipeline_async(&pipeline)
}

/// Lets this pipeline be the device's answer when the blocking call asks next, which is at once.
fn hand_over(device: Device, pipeline: JsValue) {
    let call = "createComputePipeline";
    let own = device.clone();
    let answer = Closure::once_into_js(move || {
        let _ = Reflect::delete_property(own.unchecked_ref::<js_sys::Object>(), &call.into());
        pipeline
    });
    // Left undone, the device compiles once more.
    let _ = set(&device, call, &answer);
}

fn object(json: &str) -> Result<JsValue, JsValue> {
    JSON::parse(json)
}

fn set(object: &JsValue, key: &str, value: &JsValue) -> Result<(), JsValue> {
    Reflect::set(object, &key.into(), value).map(|_| ())
}
