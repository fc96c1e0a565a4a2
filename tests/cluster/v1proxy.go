// Serves discovery.k8s.io/v1 EndpointSlices from an API server that has v1beta1 only, and passes
// everything else on unchanged.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"
)

const v1, beta = "/apis/discovery.k8s.io/v1/", "/apis/discovery.k8s.io/v1beta1/"

func slice(o map[string]interface{}) {
	if _, ok := o["endpoints"]; !ok && o["addressType"] == nil {
		return
	}
	eps, _ := o["endpoints"].([]interface{})
	for _, e := range eps {
		m, _ := e.(map[string]interface{})
		if t, ok := m["topology"].(map[string]interface{}); ok {
			if n, ok := t["kubernetes.io/hostname"]; ok && m["nodeName"] == nil {
				m["nodeName"] = n
				delete(t, "kubernetes.io/hostname")
			}
			if len(t) == 0 {
				delete(m, "topology")
			} else {
				m["deprecatedTopology"] = t
				delete(m, "topology")
			}
		}
	}
}

func rewrite(b []byte) []byte {
	var o map[string]interface{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if d.Decode(&o) != nil {
		return b
	}
	fix := func(m map[string]interface{}) {
		if m["apiVersion"] == "discovery.k8s.io/v1beta1" {
			m["apiVersion"] = "discovery.k8s.io/v1"
		}
		slice(m)
	}
	fix(o)
	if items, ok := o["items"].([]interface{}); ok {
		for _, i := range items {
			if m, ok := i.(map[string]interface{}); ok {
				fix(m)
			}
		}
	}
	if m, ok := o["object"].(map[string]interface{}); ok {
		fix(m)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.Encode(o)
	return out.Bytes()
}

type body struct {
	io.Reader
	io.Closer
}

func main() {
	listen, to := flag.String("listen", "", ""), flag.String("to", "", "")
	ca, cert, key := flag.String("ca", "", ""), flag.String("cert", "", ""), flag.String("key", "", "")
	logTo := flag.String("log", "", "")
	off := flag.Bool("off", false, "rewrite nothing")
	flag.Parse()
	target, _ := url.Parse(*to)
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	requests, err := os.OpenFile(*logTo, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0600)
	if err != nil {
		log.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(target)
	direct := p.Director
	p.FlushInterval = -1
	p.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 50}
	p.Director = func(r *http.Request) {
		direct(r)
		if !*off && strings.HasPrefix(r.URL.Path, v1) {
			r.URL.Path = beta + strings.TrimPrefix(r.URL.Path, v1)
			r.Header.Set("Accept", "application/json")
			r.Header.Set("Accept-Encoding", "identity")
			r.Header.Set("X-Rewritten", "1")
		}
	}
	p.ModifyResponse = func(r *http.Response) error {
		fmt.Fprintln(requests, time.Now().Format("15:04:05.000"), r.StatusCode, r.Request.Method, r.Request.URL, r.Request.Proto, r.Request.UserAgent())
		if r.Request.Header.Get("X-Rewritten") == "" {
			return nil
		}
		if r.Request.URL.Query().Get("watch") == "true" {
			in, out := io.Pipe()
			from := r.Body
			go func() {
				lines := bufio.NewReaderSize(from, 1<<20)
				for {
					line, err := lines.ReadBytes('\n')
					if len(line) > 0 {
						if _, e := out.Write(rewrite(line)); e != nil {
							return
						}
					}
					if err != nil {
						if err == io.EOF {
							err = nil
						}
						out.CloseWithError(err)
						return
					}
				}
			}()
			r.Body = body{in, from}
			r.Header.Del("Content-Length")
			r.ContentLength = -1
			return nil
		}
		whole, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		whole = rewrite(whole)
		r.Body = io.NopCloser(bytes.NewReader(whole))
		r.ContentLength = int64(len(whole))
		r.Header.Set("Content-Length", fmt.Sprint(len(whole)))
		return nil
	}
	log.Fatal((&http.Server{Addr: *listen, Handler: p}).ListenAndServeTLS(*cert, *key))
}
