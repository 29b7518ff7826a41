// Scores images with a file of `bench export RUN --format onnx`:  score brick.onnx part.png ...
// Needs ONNX Runtime (its C API) and stb_image.  Prints path, score, p-value and verdict of each image, as
// score_with_onnxruntime.py does; exit code 1 where an image cannot be read, 2 where the file cannot be used.

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#include <stb_image.h>

using Bytes = std::vector<uint8_t>;
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

static const OrtApi* ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
    if (!status) return;
    std::string message = ort->GetErrorMessage(status);
    ort->ReleaseStatus(status);
    throw std::runtime_error(message);
}

struct Image {
    int height, width;
    Bytes rgb;  // [height, width, 3]
};

static Bytes contents(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("no such file");
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// Whether EXIF data in a JPEG or PNG file say that the image has to be turned, which stb_image does not do.
static bool is_turned(const Bytes& file) {
    static const std::string marks[] = {std::string("Exif\0\0", 6), "eXIf"};
    std::string text(file.begin(), file.end());
    for (const std::string& mark : marks) {
        size_t found = text.find(mark), start = found + mark.size();
        if (found == std::string::npos || start + 10 > file.size()) continue;
        bool little = file[start] == 'I';
        auto number = [&](size_t at, int bytes) {
            uint32_t value = 0;
            for (int i = 0; i < bytes && start + at + bytes <= file.size(); i++)
                value |= uint32_t(file[start + at + i]) << 8 * (little ? i : bytes - 1 - i);
            return value;
        };
        size_t entries = number(4, 4);
        for (size_t at = entries + 2, end = at + 12 * number(entries, 2); at < end; at += 12)
            if (number(at, 2) == 0x0112) return number(at + 8, 2) > 1;
    }
    return false;
}

static Image read(const char* path) {
    Bytes file = contents(path);
    if (is_turned(file)) throw std::runtime_error("its EXIF orientation turns it: store it turned");
    int size = static_cast<int>(file.size()), width, height, channels;
    if (!stbi_info_from_memory(file.data(), size, &width, &height, &channels))
        throw std::runtime_error(std::string("not an image that can be read: ") + stbi_failure_reason());
    size_t count = size_t(height) * width;
    Image image{height, width, Bytes(3 * count)};
    if (channels == 1 && stbi_is_16_bit_from_memory(file.data(), size)) {  // 16-bit grey: 65535 becomes 255
        Owned<void> grey(stbi_load_16_from_memory(file.data(), size, &width, &height, &channels, 1), stbi_image_free);
        if (!grey) throw std::runtime_error(stbi_failure_reason());
        for (size_t i = 0; i < 3 * count; i++)
            image.rgb[i] = uint8_t((static_cast<uint16_t*>(grey.get())[i / 3] + 128) / 257);
        return image;
    }
    Owned<void> rgb(stbi_load_from_memory(file.data(), size, &width, &height, &channels, 3), stbi_image_free);
    if (!rgb) throw std::runtime_error(stbi_failure_reason());
    std::memcpy(image.rgb.data(), rgb.get(), 3 * count);
    return image;
}

static OrtSession* opened(const char* path) {
    if (!ort) throw std::runtime_error("the ONNX Runtime library is older than the headers of this program");
    contents(path);
    OrtEnv* env;
    OrtSessionOptions* options;
    OrtSession* session;
    OrtModelMetadata* metadata;
    OrtAllocator* allocator;
    char* about;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "score", &env));
    check(ort->CreateSessionOptions(&options));
#ifdef _WIN32
    check(ort->CreateSession(env, std::wstring(path, path + std::strlen(path)).c_str(), options, &session));
#else
    check(ort->CreateSession(env, path, options, &session));
#endif
    check(ort->SessionGetModelMetadata(session, &metadata));
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "anomaly_bench", &about));
    if (!about) throw std::runtime_error("was not written by bench export");
    if (!std::strstr(about, "\"preprocess\": true"))
        throw std::runtime_error("was exported with --no-preprocess: it takes no images");
    return session;  // it and what it needs live as long as the program
}

static void print_score(OrtSession* session, const char* path) {
    Image image = read(path);
    const int64_t shape[] = {1, image.height, image.width, 3};
    const char *input = "images", *outputs[] = {"score", "p_value", "label"};
    OrtMemoryInfo* memory;
    OrtValue *images, *found[3] = {};
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    Owned<OrtMemoryInfo> memory_owned(memory, ort->ReleaseMemoryInfo);
    check(ort->CreateTensorWithDataAsOrtValue(memory, image.rgb.data(), image.rgb.size(), shape, 4,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &images));
    Owned<OrtValue> images_owned(images, ort->ReleaseValue);
    check(ort->Run(session, nullptr, &input, &images, 1, outputs, 3, found));
    void* values[3];
    for (int i = 0; i < 3; i++) check(ort->GetTensorMutableData(found[i], &values[i]));
    static const char* verdicts[] = {"no threshold", "normal", "anomalous"};
    std::printf("%s\t%.9g\t%.4g\t%s\n", path, *static_cast<float*>(values[0]), *static_cast<double*>(values[1]),
                verdicts[1 + *static_cast<int64_t*>(values[2])]);
    for (OrtValue* value : found) ort->ReleaseValue(value);
}

int main(int count, char** words) {
    if (count < 3) {
        std::fprintf(stderr, "usage: score EXPORTED.onnx IMAGE ...\n");
        return 2;
    }
    OrtSession* session;
    try {
        session = opened(words[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", words[1], error.what());
        return 2;
    }
    int code = 0;
    for (int i = 2; i < count; i++) {
        try {
            print_score(session, words[i]);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s: %s\n", words[i], error.what());
            code = 1;
        }
    }
    return code;
}
