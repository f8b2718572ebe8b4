// Calls one function for each line of JSON arguments on standard input; the file `replies` gets a line a call.
// Types are those of the function: booleans, integers, floating point, strings, sequences, sets, maps from strings,
// pairs, tuples, and what may be absent.
#pragma once
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <limits>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <unistd.h>
#include <unordered_map>
#include <utility>
#include <vector>

namespace forklight_calls {

struct Reader {
    const char* at;
    const char* end;
    [[noreturn]] void fail(const char* wanted) const {
        throw std::invalid_argument(std::string("an argument is no ") + wanted);
    }
    char peek() {
        while (at < end && (*at == ' ' || *at == '\t')) ++at;
        return at < end ? *at : '\0';
    }
    bool take(char wanted) {
        if (peek() != wanted) return false;
        ++at;
        return true;
    }
    void expect(char wanted) {
        if (!take(wanted)) fail("value of the expected shape");
    }
    bool word(const char* text) {
        peek();
        const std::size_t size = std::strlen(text);
        if (std::size_t(end - at) < size || std::strncmp(at, text, size) != 0) return false;
        at += size;
        return true;
    }
    std::string number() {
        peek();
        const char* from = at;
        while (at < end && std::strchr("+-.eE0123456789", *at)) ++at;
        if (from == at) fail("number");
        return std::string(from, at);
    }
    unsigned hex4() {
        if (end - at < 4) fail("string");
        const std::string digits(at, at + 4);
        at += 4;
        return unsigned(std::strtoul(digits.c_str(), nullptr, 16));
    }
};

inline void put_utf8(std::string& out, unsigned code) {
    if (code < 0x80) {
        out += char(code);
    } else if (code < 0x800) {
        out += {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
    } else if (code < 0x10000) {
        out += {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
    } else {
        out += {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 63)), char(0x80 | (code >> 6 & 63)),
                char(0x80 | (code & 63))};
    }
}

template <class T> struct Codec {
    static_assert(!sizeof(T), "the function has a parameter or result of a type that JSON cannot carry");
};

template <> struct Codec<bool> {
    static bool read(Reader& in) {
        if (in.word("true")) return true;
        if (in.word("false")) return false;
        in.fail("boolean");
    }
    static void write(std::string& out, bool value) { out += value ? "true" : "false"; }
};

template <class T> requires(std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>)
struct Codec<T> {
    static T read(Reader& in) {
        const std::string text = in.number();
        char* rest = nullptr;
        errno = 0;
        if constexpr (std::is_signed_v<T>) {
            const long long value = std::strtoll(text.c_str(), &rest, 10);
            if (*rest || errno || value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max())
                in.fail("integer that fits the parameter");
            return T(value);
        } else {
            const unsigned long long value = std::strtoull(text.c_str(), &rest, 10);
            if (*rest || errno || text[0] == '-' || value > std::numeric_limits<T>::max())
                in.fail("integer that fits the parameter");
            return T(value);
        }
    }
    static void write(std::string& out, T value) { out += std::to_string(value); }
};

template <class T> requires std::is_floating_point_v<T> struct Codec<T> {
    static T read(Reader& in) { return T(std::strtod(in.number().c_str(), nullptr)); }
    static void write(std::string& out, T value) {
        if (!std::isfinite(value)) throw std::range_error("the result is not a finite number");
        char text[64];
        std::snprintf(text, sizeof text, "%.17g", double(value));
        out += text;
        if (!std::strpbrk(text, ".e")) out += ".0";
    }
};

template <> struct Codec<std::string> {
    static std::string read(Reader& in) {
        std::string out;
        if (!in.take('"')) in.fail("string");
        while (in.at < in.end && *in.at != '"') {
            if (*in.at != '\\') {
                out += *in.at++;
                continue;
            }
            if (++in.at >= in.end) in.fail("string");
            const char kind = *in.at++;
            static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
            if (kind == 'u') {
                unsigned code = in.hex4();
                if (code >= 0xD800 && code < 0xDC00 && in.word("\\u"))
                    code = 0x10000 + ((code - 0xD800) << 10) + (in.hex4() - 0xDC00);
                put_utf8(out, code);
            } else if (const char* known = std::strchr(from, kind)) {
                out += to[known - from];
            } else {
                out += kind;
            }
        }
        in.expect('"');
        return out;
    }
    static void write(std::string& out, const std::string& value) {
        out += '"';
        for (const char each : value) {
            if (each == '"' || each == '\\') {
                out += {'\\', each};
            } else if ((unsigned char)(each) < 0x20) {
                char text[8];
                std::snprintf(text, sizeof text, "\\u%04x", unsigned(each));
                out += text;
            } else {
                out += each;
            }
        }
        out += '"';
    }
};

template <> struct Codec<char> {
    static char read(Reader& in) {
        const std::string text = Codec<std::string>::read(in);
        if (text.size() != 1) in.fail("string of one character");
        return text[0];
    }
    static void write(std::string& out, char value) { Codec<std::string>::write(out, std::string(1, value)); }
};

template <class Values> void write_each(std::string& out, const Values& values) {
    out += '[';
    bool is_first = true;
    for (const typename Values::value_type& each : values) {
        if (!is_first) out += ',';
        is_first = false;
        Codec<typename Values::value_type>::write(out, each);
    }
    out += ']';
}

template <class Values> struct SequenceCodec {
    static Values read(Reader& in) {
        Values out;
        in.expect('[');
        if (in.take(']')) return out;
        do out.insert(out.end(), Codec<typename Values::value_type>::read(in));
        while (in.take(','));
        in.expect(']');
        return out;
    }
    static void write(std::string& out, const Values& values) { write_each(out, values); }
};
template <class T> struct Codec<std::vector<T>> : SequenceCodec<std::vector<T>> {};
template <class T> struct Codec<std::deque<T>> : SequenceCodec<std::deque<T>> {};
template <class T> struct Codec<std::list<T>> : SequenceCodec<std::list<T>> {};
template <class T> struct Codec<std::set<T>> : SequenceCodec<std::set<T>> {};
template <class T> struct Codec<std::multiset<T>> : SequenceCodec<std::multiset<T>> {};

template <class Tuple, std::size_t... I> void read_all(Reader& in, Tuple& values, std::index_sequence<I...>) {
    in.expect('[');
    ((I ? in.expect(',') : void(),
      std::get<I>(values) = Codec<std::decay_t<std::tuple_element_t<I, Tuple>>>::read(in)), ...);
    in.expect(']');
}
template <class Tuple, std::size_t... I>
void write_all(std::string& out, const Tuple& values, std::index_sequence<I...>) {
    out += '[';
    ((out += I ? "," : "", Codec<std::decay_t<std::tuple_element_t<I, Tuple>>>::write(out, std::get<I>(values))), ...);
    out += ']';
}
template <class Tuple, std::size_t Size> struct TupleCodec {
    static Tuple read(Reader& in) {
        Tuple out{};
        read_all(in, out, std::make_index_sequence<Size>{});
        return out;
    }
    static void write(std::string& out, const Tuple& values) {
        write_all(out, values, std::make_index_sequence<Size>{});
    }
};
template <class A, class B> struct Codec<std::pair<A, B>> : TupleCodec<std::pair<A, B>, 2> {};
template <class... T> struct Codec<std::tuple<T...>> : TupleCodec<std::tuple<T...>, sizeof...(T)> {};

template <class T, std::size_t Size> struct Codec<std::array<T, Size>> {
    static std::array<T, Size> read(Reader& in) {
        std::array<T, Size> out{};
        in.expect('[');
        for (std::size_t at = 0; at < Size; ++at) {
            if (at) in.expect(',');
            out[at] = Codec<T>::read(in);
        }
        in.expect(']');
        return out;
    }
    static void write(std::string& out, const std::array<T, Size>& values) { write_each(out, values); }
};

template <class T> struct Codec<std::optional<T>> {
    static std::optional<T> read(Reader& in) {
        if (in.word("null")) return std::nullopt;
        return Codec<T>::read(in);
    }
    static void write(std::string& out, const std::optional<T>& value) {
        if (value) Codec<T>::write(out, *value);
        else out += "null";
    }
};

template <class Map> struct MapCodec {
    static Map read(Reader& in) {
        Map out;
        in.expect('{');
        if (in.take('}')) return out;
        do {
            std::string key = Codec<std::string>::read(in);
            in.expect(':');
            out[std::move(key)] = Codec<typename Map::mapped_type>::read(in);
        } while (in.take(','));
        in.expect('}');
        return out;
    }
    static void write(std::string& out, const Map& value) {
        out += '{';
        bool is_first = true;
        for (const auto& [key, each] : value) {
            if (!is_first) out += ',';
            is_first = false;
            Codec<std::string>::write(out, key);
            out += ':';
            Codec<typename Map::mapped_type>::write(out, each);
        }
        out += '}';
    }
};
template <class T> struct Codec<std::map<std::string, T>> : MapCodec<std::map<std::string, T>> {};
template <class T> struct Codec<std::unordered_map<std::string, T>> : MapCodec<std::unordered_map<std::string, T>> {};

template <class R, class... A, class Call> std::string reply(Reader in, Call call) {
    std::tuple<std::decay_t<A>...> values;
    read_all(in, values, std::index_sequence_for<A...>{});
    std::string out = "{\"value\": ";
    const auto apply = [&](auto&... each) -> R { return call(static_cast<A>(each)...); };
    if constexpr (std::is_void_v<R>) {
        std::apply(apply, values);
        out += "null";
    } else {
        Codec<std::decay_t<R>>::write(out, std::apply(apply, values));
    }
    return out + "}";
}

template <class R, class... A> std::string call(R (*function)(A...), Reader in) {
    return reply<R, A...>(in, function);
}
template <class R, class C, class... A> std::string call(R (C::*method)(A...), Reader in) {
    C object{};
    return reply<R, A...>(in, [&](A... each) -> R { return (object.*method)(static_cast<A>(each)...); });
}
template <class R, class C, class... A> std::string call(R (C::*method)(A...) const, Reader in) {
    C object{};
    return reply<R, A...>(in, [&](A... each) -> R { return (object.*method)(static_cast<A>(each)...); });
}

inline void send(signed replies, std::string line) {
    line += '\n';
    for (std::size_t done = 0; done < line.size();) {
        const ssize_t size = ::write(replies, line.data() + done, line.size() - done);
        if (size < 0) std::_Exit(1);
        done += std::size_t(size);
    }
}

template <class Function> signed run(Function function) {
    std::string input;
    char chunk[65536];
    for (ssize_t size; (size = ::read(0, chunk, sizeof chunk)) > 0;) input.append(chunk, std::size_t(size));
    const signed nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, 0);
    const signed replies = ::open("replies", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (std::size_t from = 0, to; (to = input.find('\n', from)) != std::string::npos; from = to + 1) {
        std::string line;
        try {
            line = call(function, Reader{input.data() + from, input.data() + to});
        } catch (const std::exception& error) {
            line = "{\"error\": ";
            Codec<std::string>::write(line, std::string(error.what()).substr(0, 200));
            line += "}";
        } catch (...) {
            line = "{\"error\": \"threw what is no std::exception\"}";
        }
        send(replies, std::move(line));
    }
    return 0;
}

}  // namespace forklight_calls
